# SPDX-License-Identifier: Apache-2.0
"""Asking the agents of other nodes: a connection to each that there is something to ask of, ended when there is no more.

What cannot be asked or is not answered is counted by why, and waits for nothing: whoever asks has a hold of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from kernelspan_agent.trace.peers import Origin, Outcome, Query, Sent
from kernelspan_api.control import MAX_QUERY_BYTES, RESOLVE, peer_name
from kernelspan_api.control.control_pb2 import ExchangeAnswer, ExchangeQuery, Identity, Neighbour, Question

QUESTIONS_AT_ONCE = 256
MAX_QUEUED = 2048  # for one agent
MAX_UNANSWERED = 4096  # by one agent
MAX_LINES = 256
IDLE_SECONDS = 60.0
UNANSWERED_NS = 3_000_000_000  # by then nobody waits for it any more
BACKOFF_SECONDS = (0.5, 30.0)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_QUERY_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # another certificate is another connection
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_log = logging.getLogger(__name__)

Heard = Callable[[int, Outcome, Origin | None], object]


@dataclass(slots=True)
class Asking:
    """What all lines have in common. `identity`: who we are; `authorities`: PEM of whom we trust; `heard` gets answers.

    `counts`: questions by what became of them.
    """

    authorities: Callable[[], bytes]
    now_ns: Callable[[], int]
    heard: Heard
    identity: Identity | None = None
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Open:
    """A query that has no answer yet. `asked_ns`: when it was asked last, 0: it waits. `is_again`: on a second connection."""

    number: int
    query: Query
    asked_ns: int = 0
    is_again: bool = False


class Line:
    """To one agent. In the loop's thread."""

    def __init__(self, neighbour: Neighbour, asking: Asking) -> None:
        self.node, self.endpoint = neighbour.node, neighbour.endpoint
        self._asking = asking
        self._queued: deque[_Open] = deque()
        self._unanswered: OrderedDict[int, _Open] = OrderedDict()  # by their numbers
        self._next_id = 1
        self._wake = asyncio.Event()
        self._retry_at = self.used = time.monotonic()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def ask(self, query: Query) -> None:
        """With what else is to be asked of this agent."""
        counts, self.used = self._asking.counts, time.monotonic()
        if self._task is None and self.used < self._retry_at:
            counts["Unreachable"] += 1
        elif len(self._queued) >= MAX_QUEUED or len(self._unanswered) >= MAX_UNANSWERED:
            counts["Full"] += 1
            self._forget_old()
        else:
            self._queued.append(_Open(self._next_id, query))
            self._next_id += 1
            self._wake.set()
            if self._task is None:
                self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def is_idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        return self._task is None and now >= self._retry_at and not self._queued

    async def _run(self) -> None:
        """One connection, until it ends or nothing was asked for a while."""
        answered = False
        try:
            identity = self._asking.identity
            if identity is None:
                return
            credentials = grpc.ssl_channel_credentials(self._asking.authorities(), identity.key, identity.certificate)
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", peer_name(self.node)))
            async with grpc.aio.secure_channel(self.endpoint, credentials, options) as channel:
                method = channel.stream_stream(
                    RESOLVE,
                    request_serializer=ExchangeQuery.SerializeToString,
                    response_deserializer=ExchangeAnswer.FromString,
                )
                call: Any = method()
                writer = asyncio.ensure_future(self._write(call))
                try:
                    async for answer in call:
                        answered = True
                        self._take(answer, self._asking.now_ns())
                finally:
                    writer.cancel()
        except asyncio.CancelledError:
            answered = False  # nothing is asked any more
            raise
        except (grpc.RpcError, OSError, ValueError) as error:
            _log.info("peer.lost node=%s endpoint=%s message=%s", self.node, self.endpoint, _words(error))
        finally:
            self._end(answered=answered)

    def _end(self, *, answered: bool) -> None:
        # What was asked on one that was just ending is asked once more on the next.
        again = [one for one in self._unanswered.values() if answered and not one.is_again]
        self._asking.counts["Unreachable"] += len(self._unanswered) - len(again)
        self._unanswered.clear()
        for one in reversed(again):
            one.is_again = True
            self._queued.appendleft(one)
        self._task = None
        self._failures = 0 if answered else self._failures + 1
        if answered and self._queued:  # it had ended for having nothing to ask, or broke
            self._wake.set()
            self._task = asyncio.ensure_future(self._run())
        elif not answered:
            self._asking.counts["Unreachable"] += len(self._queued)
            self._queued.clear()
            lowest, highest = BACKOFF_SECONDS
            most = min(highest, lowest * 2 ** min(self._failures, 10))
            self._retry_at = time.monotonic() + random.uniform(most / 2, most)  # noqa: S311

    async def _write(self, call: Any) -> None:
        """Until there is no more to ask for a while, or the call is over: whoever reads it learns why."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    break
                self._wake.clear()
                while self._queued:
                    await call.write(self._some())
            await call.done_writing()

    def _some(self) -> ExchangeQuery:
        query, asked_ns = ExchangeQuery(), self._asking.now_ns()
        self._forget_old()
        while self._queued and len(query.questions) < QUESTIONS_AT_ONCE:
            one = self._queued.popleft()
            self._unanswered[one.number], one.asked_ns = one, asked_ns
            what = one.query
            query.questions.append(
                Question(id=one.number, exchange=what.exchange_id, said=what.said, profile_uid=what.profile_uid)
            )
        return query

    def _forget_old(self) -> None:
        oldest = self._asking.now_ns() - UNANSWERED_NS
        while self._unanswered and next(iter(self._unanswered.values())).asked_ns < oldest:
            self._unanswered.popitem(last=False)
            self._asking.counts["Unanswered"] += 1

    def _take(self, answer: ExchangeAnswer, heard_ns: int) -> None:
        for verdict in answer.verdicts:
            try:
                outcome = Outcome(verdict.outcome)
            except ValueError:  # of a newer agent
                outcome = Outcome.NOBODY
            one = self._unanswered.get(verdict.id)
            if outcome is Outcome.PENDING:
                if one is not None:
                    self._asking.heard(one.query.key, outcome, None)
                continue
            if one is None:  # it was not asked of this agent, or is answered already
                self._asking.counts["Unasked"] += 1
                continue
            del self._unanswered[verdict.id]
            origin = None
            if outcome is Outcome.FOUND:
                sent = Sent(
                    verdict.trace_high, verdict.trace_low, verdict.span_id, verdict.sampled,
                    verdict.start_ns, verdict.end_ns,
                )  # fmt: skip
                # It came after it was asked, and was sent before it was heard: by these the other clock's place is known.
                ahead_ns = answer.sent_ns - heard_ns, verdict.arrived_ns - one.asked_ns
                origin = Origin(sent, ahead_ns) if ahead_ns[0] <= ahead_ns[1] else None
            self._asking.counts[outcome.name.capitalize() if origin or outcome is not Outcome.FOUND else "Unsound"] += 1
            self._asking.heard(one.query.key, outcome, origin)


class Lines:
    """Those to all agents, the least used ended where there are too many."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._lines: OrderedDict[tuple[str, str], Line] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def ask(self, neighbour: Neighbour, query: Query) -> None:
        """Of that agent."""
        name = neighbour.node, neighbour.endpoint
        line = self._lines.get(name)
        if line is None:
            if len(self._lines) >= MAX_LINES and not self._make_room():
                self._asking.counts["Full"] += 1
                return
            line = self._lines[name] = Line(neighbour, self._asking)
        self._lines.move_to_end(name)
        line.ask(query)

    def _make_room(self) -> bool:
        now = time.monotonic()
        for name in [name for name, line in self._lines.items() if line.is_idle(now)]:
            del self._lines[name]
        return len(self._lines) < MAX_LINES

    async def close(self) -> None:
        """Ends all."""
        for line in self._lines.values():
            await line.close()


def _words(error: Any) -> str:
    return f"{error.code().name}: {error.details()}" if hasattr(error, "code") else str(error)
