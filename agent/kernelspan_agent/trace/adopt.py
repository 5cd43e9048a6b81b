# SPDX-License-Identifier: Apache-2.0
"""Tasks of event loops: what a task did up to the answer that it sends was done for the request that is answered.

A server's loop receives a request and begins a task for it. Which one, nobody says until the task sends the answer on the
request's connection. So the spans of a task that may be one are kept back (hold.py) below a root of their own. When it
answers, that root goes below the request; when it ends without, or turns out to answer several, it is an activity like any
other. Only tasks whose frames prove that they are begun for one request each (`works_on_one`): another that answers may have
worked for several before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.model import Stack, StackState
from kernelspan_agent.trace.spans import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernelspan_agent.model import Frame, ProcessInfo
    from kernelspan_agent.protocols.exchanges import Exchange
    from kernelspan_agent.trace.claims import Followed
    from kernelspan_agent.trace.contexts import Context, Key
    from kernelspan_agent.trace.keep import Keep


@dataclass(frozen=True, slots=True)
class _Server:
    """A method that a server begins a task with for each request, and does nothing else in it.

    `outer`: the method of another task that it may begin in the midst of, since Python 3.12. `at_once`: it is begun by the
    callback that has read the end of the request's head, if the connection has no other one open.
    """

    module: str
    name: str  # of the class
    method: str
    outer: str = ""
    at_once: bool = False

    def has(self, frame: Frame, method: str) -> bool:
        """Whether the frame is of this method of the class; Python before 3.11 does not name the class."""
        return frame.function in {f"{self.module}.{self.name}.{method}", f"{self.module}.{method}"}


_SERVERS = (
    _Server("uvicorn.protocols.http.h11_impl", "RequestResponseCycle", "run_asgi", at_once=True),
    _Server("uvicorn.protocols.http.httptools_impl", "RequestResponseCycle", "run_asgi", at_once=True),
    _Server("aiohttp.web_protocol", "RequestHandler", "_handle_request", "start"),
)
_METHODS = tuple(f".{each.method}" for each in _SERVERS)
_IS_SAID = 2  # of a generation: asyncio itself says which task runs, also where it has begun in the midst of another


def is_whole(key: Key) -> bool:
    """Whether a task's context is all of the task and not one step of it: its generation is of the task's number."""
    return not key[3] & 1


def works_on_one(stack: Stack, key: Key, *, at_once: bool = False) -> bool:
    """Whether the whole stack is of a task that its server has begun for one request; `key`: of its context.

    `at_once`: and by the callback that has read the end of its head.
    """
    if stack.state is not StackState.COMPLETE:
        return False
    for at, frame in enumerate(stack.frames):
        if frame.function.endswith(_METHODS):
            for server in _SERVERS:
                if server.has(frame, server.method):
                    outside = stack.frames[at + 1 :]
                    is_own = key[3] & _IS_SAID or not any(server.has(each, server.outer) for each in outside)
                    return bool(is_own) and (server.at_once or not at_once)
    return False


@dataclass(slots=True, eq=False)
class Adoption:
    """A task that may be a request's. `trace`: what its spans bear, another's when it is known; `first_ns`: its first operation.

    `otherwise`: trace and parent that it has if it answers nothing; `is_sampled`: whether that is. `must_answer`: then its
    operations are not wanted.
    """

    trace: Trace
    root_id: int
    first_ns: int
    otherwise: tuple[int, int, int]  # high and low of the trace, the parent
    is_sampled: bool
    must_answer: bool
    parent_id: int = 0
    settled: bool = False
    followed: Followed | None = None  # that it has answered
    is_over: bool = False  # it does nothing more, or nothing that is the request's
    is_void: bool = False  # it has answered several

    @property
    def is_orphan(self) -> bool:
        """Whether it turned out to be nobody's, where only requests are wanted."""
        return self.must_answer and (self.followed is None or self.is_void)


class Awaited:
    """Requests that no context is known to work on: a task may answer them. `ambiguous`: whose task answered several."""

    def __init__(self) -> None:
        self._by_process: dict[ProcessInfo, dict[Followed, None]] = {}  # the oldest first
        self.ambiguous = 0

    def add(self, followed: Followed) -> None:
        """One that has come."""
        self._by_process.setdefault(followed.process, {})[followed] = None

    def discard(self, followed: Followed) -> None:
        """It is over, or it is known who answers it."""
        mine = self._by_process.get(followed.process)
        if mine is not None:
            mine.pop(followed, None)
            if not mine:
                del self._by_process[followed.process]

    def was_there(self, info: ProcessInfo, since_ns: int) -> bool:
        """Whether one of the process that is there now was at that time."""
        oldest = next(iter(self._by_process.get(info, ())), None)
        return oldest is not None and oldest.exchange.start_ns <= since_ns

    def answered(self, exchanges: Iterable[Exchange], context: Context, find: dict[Exchange, Followed]) -> None:
        """This context has begun to send their responses."""
        for exchange in exchanges:
            followed, adoption = find.get(exchange), context.adoption
            if followed is None or adoption is None or adoption.settled or not exchange.is_server:
                continue
            if adoption.followed is not None:  # it works on several
                self.ambiguous += 1
                adoption.is_void, adoption.followed.correlation = True, "None"
            elif followed.context is None and exchange.start_ns <= adoption.first_ns:
                adoption.followed, followed.answers = followed, context
                followed.correlation = "Connection"
                self.discard(followed)


class Adoptions:
    """Of one profile: `pending`, by the lower half of their traces' names. It counts the `adopted`."""

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep
        self.pending: dict[int, Adoption] = {}
        self.adopted = 0

    def began(self, adoption: Adoption) -> None:
        """Its spans are kept back from now on."""
        adoption.trace.sampled = adoption.trace.unsettled = True
        self.pending[adoption.trace.low] = adoption

    def settle(self, *, all_of_them: bool = False) -> dict[int, Adoption]:
        """Those of which it is known now whose they are, pending no more."""
        found = {}
        for low, adoption in self.pending.items():
            followed = adoption.followed
            if followed is not None and not adoption.is_void:
                if followed.waiting is None or followed.waiting.settled:
                    self._join(adoption, followed)
                    found[low] = adoption
            elif adoption.is_over or adoption.is_void or all_of_them:
                self._leave(adoption)
                found[low] = adoption
        for low in found:
            del self.pending[low]
        return found

    def _join(self, adoption: Adoption, followed: Followed) -> None:
        mine, its = adoption.trace, followed.root.trace
        mine.high, mine.low, mine.sampled = its.high, its.low, its.sampled
        adoption.parent_id = followed.root.span_id
        if its.undecided and self._keep is not None:
            self._keep.follows(mine)
        self.adopted += 1
        self._done(adoption)

    def _leave(self, adoption: Adoption) -> None:
        mine = adoption.trace
        mine.high, mine.low, adoption.parent_id = adoption.otherwise
        mine.sampled, mine.is_request = adoption.is_sampled and not adoption.must_answer, False
        self._done(adoption)

    @staticmethod
    def _done(adoption: Adoption) -> None:
        adoption.settled, adoption.trace.unsettled = True, False
