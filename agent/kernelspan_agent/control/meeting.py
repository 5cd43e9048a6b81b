# SPDX-License-Identifier: Apache-2.0
"""What the operator tells of other agents: who this one is to them, and whose an address is. On the stream's own connection.

It is asked about addresses as they come up, and nothing is sent to those who do not ask: in a cluster of thousands of nodes
pods come and go all the time, and each agent's programs talk to few of them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from kernelspan_api.control import MAX_ADDRESSES, MEET
from kernelspan_api.control.control_pb2 import Enquiry, Introduction

BACKOFF_SECONDS = (0.5, 30.0)
CALL_SECONDS = 30.0  # an operator that begins reads all pods first
_Call = Callable[[Enquiry], Introduction]
_log = logging.getLogger(__name__)


class Meeting:
    """The call Meet, made as often as there is something to ask. `tell` gets what comes, in a thread of its own, and nothing in an
    Introduction when what was asked will not be answered.
    """

    def __init__(self, endpoint: str, tell: Callable[[Introduction], object]) -> None:
        """`endpoint`: where others find this agent."""
        self._endpoint, self._tell = endpoint, tell
        self._lock = threading.Lock()
        self._enquiries: queue.SimpleQueue[Enquiry | None] | None = None

    @contextlib.contextmanager
    def on(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> Iterator[None]:
        """Meets on this channel as long as the block lasts."""
        method = channel.unary_unary(
            MEET, request_serializer=Enquiry.SerializeToString, response_deserializer=Introduction.FromString
        )
        ended, enquiries = threading.Event(), queue.SimpleQueue[Enquiry | None]()

        def call(enquiry: Enquiry) -> Introduction:
            return method(enquiry, metadata=metadata, timeout=CALL_SECONDS)

        threading.Thread(target=self._run, args=(call, enquiries, ended), name="meeting", daemon=True).start()
        try:
            yield
        finally:  # a call that is under way ends with the channel
            ended.set()
            enquiries.put(None)

    def enquire(self, addresses: Iterable[str]) -> bool:
        """Asks whose they are; False: nobody can be asked now."""
        found = list(addresses)
        with self._lock:
            if self._enquiries is None:
                return False
            for begin in range(0, len(found), MAX_ADDRESSES):
                self._enquiries.put(Enquiry(addresses=found[begin : begin + MAX_ADDRESSES]))
        return True

    def _run(self, call: _Call, enquiries: queue.SimpleQueue[Enquiry | None], ended: threading.Event) -> None:
        failures = 0
        while not ended.is_set():
            failures += 1
            try:
                self._tell(call(Enquiry(endpoint=self._endpoint)))
                failures = 0
                self._answer(call, enquiries)
            except ValueError:  # the channel is closed
                return
            except grpc.RpcError as error:
                if not _may_come_again(error):
                    return
            lowest, highest = BACKOFF_SECONDS
            ended.wait(random.uniform(0.0, min(highest, lowest * 2 ** min(failures, 10))))  # noqa: S311

    def _answer(self, call: _Call, enquiries: queue.SimpleQueue[Enquiry | None]) -> None:
        """Until the channel is given up. Raises RpcError, ValueError; what is asked then is not answered."""
        with self._lock:
            self._enquiries = enquiries
        try:
            while (enquiry := enquiries.get()) is not None:
                self._tell(call(enquiry))
        finally:
            with self._lock:
                if self._enquiries is enquiries:
                    self._enquiries = None
                while not enquiries.empty():
                    enquiries.get()
            self._tell(Introduction())


def _may_come_again(error: Any) -> bool:
    if error.code() is grpc.StatusCode.CANCELLED:
        return False
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        _log.warning("peers.unknown hint=%s", "the operator is older: nothing is joined across nodes")
        return False
    _log.warning("peers.lost message=%s", error)
    return True
