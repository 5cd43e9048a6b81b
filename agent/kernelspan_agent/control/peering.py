# SPDX-License-Identifier: Apache-2.0
"""The agent among the agents of other nodes: a thread with a loop, in which it is asked and asks.

    the thread that traces -> ask, flush -> whose address is it? (the operator) -> that node's agent -> heard
    another agent -> asked -> the thread that traces -> reply

Without an operator it goes on with what it knows of addresses, and with the certificate that it has, for as long as that
is good. Nothing here is waited for: what comes too late has become a root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio

from kernelspan_agent.control.meeting import Meeting
from kernelspan_agent.control.peerlines import Asking, Lines
from kernelspan_agent.control.peerserver import MAX_STREAMS, OPTIONS, Questioners
from kernelspan_agent.errors import UsageError
from kernelspan_agent.trace.peers import Origin, Outcome, Query, Question
from kernelspan_api.control.control_pb2 import Identity, Introduction, Neighbour

KNOWN_SECONDS = 60.0  # a pod's address may be another pod's soon after it has ended
MAX_KNOWN = 8192  # addresses
MAX_WAITING = 4096  # queries for which it is not known yet whom to ask
MAX_TAKEN = 8192  # questions and answers that the thread that traces has not fetched
_log = logging.getLogger(__name__)


class Peering:
    """What goes between this node's agent and others' (trace.peers.Post). `start` it, `close` it.

    `counts`: the questions that were to be asked, by what became of them.
    """

    def __init__(self, node: str, endpoint: str, authorities: Callable[[], bytes]) -> None:
        """`endpoint`: address and port, of this machine, where others find this agent. `authorities`: PEM, read anew each time."""
        self._node, self._endpoint, self._authorities = node, endpoint, authorities
        self._clock: Callable[[], int] | None = None
        self._out: deque[Query] = deque()
        self._heard: deque[tuple[int, Outcome, Origin | None]] = deque(maxlen=MAX_TAKEN)
        self._questions: deque[Question] = deque()
        self._todo: deque[Callable[[], object]] = deque()  # in the loop's thread, with the next flush
        self._known: OrderedDict[str, tuple[Neighbour | None, float]] = OrderedDict()
        self._unplaced: dict[str, list[Query]] = {}
        self._waiting = 0
        self._asking = Asking(authorities, self._now_ns, self._hear)
        self.counts: Counter[str] = self._asking.counts
        self._lines = Lines(self._asking)
        self._questioners = Questioners(self._take, self._now_ns, self._todo.append)
        self.refused = self._questioners.refused
        self.meeting = Meeting(endpoint, self.introduced)
        self._server: Any = None
        self._begun: asyncio.Future[None] | None = None
        self._given: Identity | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peers", daemon=True)
        self.port: Future[int] = Future()

    def start(self) -> None:
        """Begins; it is asked from the moment on that the operator has said who it is."""
        self._thread.start()

    def close(self) -> None:
        """Nobody is asked any more, nor asks."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def attach(self, now_ns: Callable[[], int] | None) -> None:
        """By whose clock what traces goes now (Unix epoch); None: nothing is traced, and whoever asks is told that nobody has."""
        self._clock = now_ns
        if now_ns is None:
            for question in self.asked():
                question.reply(Outcome.NOBODY, None)
            self.flush()

    def _now_ns(self) -> int:
        clock = self._clock
        return clock() if clock is not None else time.time_ns()

    # --- of the thread that traces ------------------------------------------------------------------------------------

    def ask(self, query: Query) -> None:
        """See Post."""
        if len(self._out) < MAX_WAITING:
            self._out.append(query)
        else:
            self.counts["Full"] += 1

    def heard(self) -> list[tuple[int, Outcome, Origin | None]]:
        """See Post."""
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def asked(self) -> list[Question]:
        """See Post."""
        return [self._questions.popleft() for _ in range(len(self._questions))]

    def flush(self) -> None:
        """See Post."""
        if self._out or self._todo:
            self._loop.call_soon_threadsafe(self._drain)

    # --- of the loop's ------------------------------------------------------------------------------------------------

    def _hear(self, key: int, outcome: Outcome, origin: Origin | None) -> None:
        self._heard.append((key, outcome, origin))

    def _take(self, question: Question) -> bool:
        if self._clock is None or len(self._questions) >= MAX_TAKEN:
            return False
        self._questions.append(question)
        return True

    def _drain(self) -> None:
        while self._todo:
            self._todo.popleft()()
        unknown: dict[str, None] = {}
        for _ in range(len(self._out)):
            query = self._out.popleft()
            address = canonical(query.address)
            neighbour, until = self._known.get(address, (None, 0.0))
            if not address:
                self.counts["Here"] += 1
            elif until > time.monotonic():
                self._send(neighbour, query)
            else:
                if address not in self._unplaced:
                    unknown[address] = None
                self._keep(address, query)
        if unknown and not self.meeting.enquire(unknown):
            for address in unknown:  # what was known before is better than nothing
                self._place(address, self._known.get(address, (None, 0.0))[0], 0.0)

    def _keep(self, address: str, query: Query) -> None:
        if self._waiting >= MAX_WAITING:
            self.counts["Full"] += 1
        else:
            self._waiting += 1
            self._unplaced.setdefault(address, []).append(query)

    def _send(self, neighbour: Neighbour | None, query: Query) -> None:
        if neighbour is None or self._asking.identity is None:
            self.counts["Unlocated"] += 1
        elif neighbour.node == self._node:
            self.counts["Here"] += 1
        else:
            self._lines.ask(neighbour, query)

    def _place(self, address: str, neighbour: Neighbour | None, until: float) -> None:
        """It is known whose an address is."""
        if until:
            self._known[address] = neighbour, until
            self._known.move_to_end(address)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        found = self._unplaced.pop(address, ())
        self._waiting -= len(found)
        for query in found:
            self._send(neighbour, query)

    def introduced(self, introduction: Introduction) -> None:
        """What the operator tells: see Meeting. In any thread."""
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._learn, introduction)

    def _learn(self, introduction: Introduction) -> None:
        if introduction.HasField("identity"):
            self._asking.identity = introduction.identity
            if self._server is None:
                self._server = False
                self._begun = asyncio.ensure_future(self._serve())
        if not introduction.locations:  # what was asked about is not answered any more
            for address in list(self._unplaced):
                self._place(address, self._known.get(address, (None, 0.0))[0], 0.0)
        until = time.monotonic() + KNOWN_SECONDS
        for one in introduction.locations:
            self._place(one.address, one.neighbour if one.HasField("neighbour") else None, until)

    async def _serve(self) -> None:
        try:
            configuration = self._configuration()
            credentials = grpc.dynamic_ssl_server_credentials(
                configuration,
                self._newer,  # type: ignore[arg-type]  # None is allowed
                require_client_authentication=True,
            )
            server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
            server.add_generic_rpc_handlers((self._questioners.handler(),))
            port = server.add_secure_port(self._endpoint, credentials)
            await server.start()
        except (OSError, RuntimeError, ValueError) as error:
            _log.error("peers.deaf endpoint=%s message=%s", self._endpoint, error)
            self._server = None
            return
        self._server = server
        self.port.set_result(port)
        _log.info("peers.listen endpoint=%s", self._endpoint)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        identity = self._given = self._asking.identity
        assert identity is not None
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], root_certificates=self._authorities()
        )

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked at each handshake; None: as before."""
        return None if self._given is self._asking.identity else self._configuration()

    async def _close(self) -> None:
        await self._lines.close()
        if self._server:
            await self._server.stop(0)


def check_endpoint(text: str) -> str:
    """`--peers` as it is given. Raises UsageError: it is no address and port."""
    host, separator, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")  # a pod's address is put in, of whatever family
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        found = None
    if (
        found is None
        or not separator
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535)
    ):
        raise UsageError(
            f"--peers {text[:80]!r} is no address and port", hint="give such as 10.1.2.3:9466 or [fd00::1]:9466"
        )
    return f"[{found}]:{int(port)}" if found.version == 6 else f"{found}:{int(port)}"


def canonical(address: str) -> str:
    """An address as the operator has it; empty: it is none that another node can have."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return "" if found.is_loopback or found.is_unspecified or found.is_link_local else str(found)
