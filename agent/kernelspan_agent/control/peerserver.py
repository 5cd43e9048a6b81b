# SPDX-License-Identifier: Apache-2.0
"""Other nodes' agents ask here: who they are, how much each of them may ask, and what goes back.

Only who has a certificate of the cluster's authority that is made out to an agent is heard. One that asks too much is refused
the rest, one that does not read its answers keeps no more of them here than it may have questions.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from kernelspan_agent.trace.peers import Outcome, Question, Sent
from kernelspan_api.control import MAX_QUERY_BYTES, PEER_DOMAIN
from kernelspan_api.control.control_pb2 import ExchangeAnswer, ExchangeQuery, Verdict

QUESTIONS_PER_SECOND = 5000  # of one node: more requests than one node's agent can follow
MAX_OPEN_QUESTIONS = 4096  # of one stream
MAX_STREAMS = 512
MAX_STREAMS_OF_NODE = 4  # an agent that restarts, or whose connection broke, has two for a moment
VERDICTS_AT_ONCE = 256
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_QUERY_BYTES),
    ("grpc.max_concurrent_streams", 2),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_age_ms", 3_600_000),  # certificates are looked at when a connection is made
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_connection_idle_ms", 120_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)
_SERVICE, _METHOD = "kernelspan.v1alpha1.Peer", "Resolve"


@dataclass(slots=True, eq=False)
class _Stream:
    """One that asks. `open`: questions without a verdict that was sent."""

    node: str
    open: int = 0
    tokens: float = QUESTIONS_PER_SECOND
    since: float = field(default_factory=time.monotonic)
    verdicts: list[Verdict] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def may_ask(self) -> bool:
        now = time.monotonic()
        self.tokens = min(QUESTIONS_PER_SECOND, self.tokens + (now - self.since) * QUESTIONS_PER_SECOND)
        self.since = now
        if self.tokens < 1 or self.open >= MAX_OPEN_QUESTIONS:
            return False
        self.tokens -= 1
        return True


class Questioners:
    """The service Peer. `take` gets each question, and says whether somebody will answer it; `reply` of it may be called in any thread.

    `refused` counts calls that were not let in, by reason.
    """

    def __init__(
        self,
        take: Callable[[Question], bool],
        now_ns: Callable[[], int],
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        """`later`: has something done in the loop's thread."""
        self._take, self._now_ns, self._later = take, now_ns, later
        self._streams: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server serves."""
        method: grpc.RpcMethodHandler[ExchangeQuery, ExchangeAnswer] = grpc.stream_stream_rpc_method_handler(
            self.resolve,
            request_deserializer=ExchangeQuery.FromString,
            response_serializer=ExchangeAnswer.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    async def resolve(self, queries: Any, context: Any) -> None:
        """The call Resolve."""
        node = agent_of(context.auth_context())
        if not node:
            self.refused["NoAgent"] += 1
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no certificate of an agent")
        if self._streams[node] >= MAX_STREAMS_OF_NODE or self._streams.total() >= MAX_STREAMS:
            self.refused["TooMany"] += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")
        stream = _Stream(node)
        self._streams[node] += 1
        reader = asyncio.ensure_future(self._read(queries, stream))
        try:
            while not stream.ended or stream.open:
                await stream.wake.wait()
                stream.wake.clear()
                while stream.verdicts:
                    some, stream.verdicts = stream.verdicts[:VERDICTS_AT_ONCE], stream.verdicts[VERDICTS_AT_ONCE:]
                    await context.write(ExchangeAnswer(sent_ns=self._now_ns(), verdicts=some))
                    stream.open -= sum(one.outcome != Verdict.OUTCOME_PENDING for one in some)
        finally:
            reader.cancel()
            self._streams[node] -= 1
            if not self._streams[node]:
                del self._streams[node]

    async def _read(self, queries: Any, stream: _Stream) -> None:
        try:
            async for query in queries:
                arrived_ns = self._now_ns()
                for one in query.questions:
                    reply = partial(self._reply, stream, one.id, arrived_ns)
                    question = Question(stream.node, one.exchange, one.said, one.profile_uid, arrived_ns, reply)
                    may_ask = stream.may_ask()
                    stream.open += 1
                    if not may_ask:
                        self._put(stream, Verdict(id=one.id, outcome=Verdict.OUTCOME_REFUSED, arrived_ns=arrived_ns))
                    elif not self._take(question):
                        self._put(stream, Verdict(id=one.id, outcome=Verdict.OUTCOME_NOBODY, arrived_ns=arrived_ns))
                if stream.open > 2 * MAX_OPEN_QUESTIONS:  # not even refusals are read
                    return
        finally:
            stream.ended = True
            stream.wake.set()

    def _reply(self, stream: _Stream, number: int, arrived_ns: int, outcome: Outcome, sent: Sent | None) -> None:
        """In the thread that traces."""
        verdict = Verdict(id=number, outcome=f"OUTCOME_{outcome.name}", arrived_ns=arrived_ns)
        if sent is not None:
            verdict.start_ns, verdict.end_ns, verdict.sampled = sent.start_ns, sent.end_ns, sent.sampled
            verdict.trace_high, verdict.trace_low, verdict.span_id = sent.high, sent.low, sent.span_id
        self._later(partial(self._put, stream, verdict))

    @staticmethod
    def _put(stream: _Stream, verdict: Verdict) -> None:
        stream.verdicts.append(verdict)
        stream.wake.set()


def agent_of(authentication: Any) -> str:
    """The name of an agent that TLS has proved; empty: the certificate is none of an agent's."""
    names = authentication.get("x509_subject_alternative_name", ())
    found = [name.decode("ascii", "replace") for name in names]
    return found[0] if len(found) == 1 and found[0].endswith(f".{PEER_DOMAIN}") else ""
