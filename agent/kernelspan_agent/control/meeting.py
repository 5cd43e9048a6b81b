# SPDX-License-Identifier: Apache-2.0
"""What the operator tells of other agents: who this one is to them, and whose an address is. On the stream's own connection.

It is asked about addresses as they come up, and nothing is sent to those who do not ask: in a cluster of thousands of nodes
pods come and go all the time, and each agent's programs talk to few of them.
"""

from __future__ import annotations

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
_log = logging.getLogger(__name__)


class Meeting:
    """The call Meet, made anew whenever it ends, for as long as its channel is open. `tell` gets what comes, in a thread
    of its own, and nothing in an Introduction when the call has ended.
    """

    def __init__(self, endpoint: str, tell: Callable[[Introduction], object]) -> None:
        """`endpoint`: where others find this agent."""
        self._endpoint, self._tell = endpoint, tell
        self._lock = threading.Lock()
        self._enquiries: queue.SimpleQueue[Enquiry | None] | None = None
        self._closing = threading.Event()

    def begin(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        """Meets on this channel from now on."""
        threading.Thread(target=self._run, args=(channel, metadata), name="meeting", daemon=True).start()

    def close(self) -> None:
        """No call is made any more."""
        self._closing.set()

    def enquire(self, addresses: Iterable[str]) -> bool:
        """Asks whose they are; False: nobody can be asked now."""
        found = list(addresses)
        with self._lock:
            enquiries = self._enquiries
        if enquiries is None:
            return False
        for begin in range(0, len(found), MAX_ADDRESSES):
            enquiries.put(Enquiry(addresses=found[begin : begin + MAX_ADDRESSES]))
        return True

    def _run(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                if self._meet(channel, metadata):
                    failures = 0
            except ValueError:  # the channel is closed
                return
            except grpc.RpcError as error:
                call: Any = error
                code = call.code()
                if code is grpc.StatusCode.CANCELLED:
                    return
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    _log.warning("peers.unknown hint=%s", "the operator is older: nothing is joined across nodes")
                    return
                _log.warning("peers.lost message=%s", error)
            failures += 1
            lowest, highest = BACKOFF_SECONDS
            self._closing.wait(random.uniform(0.0, min(highest, lowest * 2 ** min(failures, 10))))  # noqa: S311

    def _meet(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> bool:
        """Until the call ends; whether anything came."""
        method = channel.stream_stream(
            MEET, request_serializer=Enquiry.SerializeToString, response_deserializer=Introduction.FromString
        )
        enquiries: queue.SimpleQueue[Enquiry | None] = queue.SimpleQueue()
        enquiries.put(Enquiry(endpoint=self._endpoint))
        came = False
        try:
            for introduction in method(_until_none(enquiries), metadata=metadata):
                if not came:
                    came = True
                    with self._lock:
                        self._enquiries = enquiries
                self._tell(introduction)
        finally:
            enquiries.put(None)
            with self._lock:
                if self._enquiries is enquiries:
                    self._enquiries = None
            self._tell(Introduction())
        return came


def _until_none(enquiries: queue.SimpleQueue[Enquiry | None]) -> Iterator[Enquiry]:
    while (enquiry := enquiries.get()) is not None:
        yield enquiry
