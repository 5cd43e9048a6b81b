# SPDX-License-Identifier: Apache-2.0
"""Which context works on which request, and when it turns out that it does not.

A context works on a request that it has received for as long as the response is on its way, where that is known: a task
or a greenlet that received it itself, and a thread whose frames prove it (`alone`). What tells against a thread ends that:
another request, bytes of one, or the answer to one that is not this; an operation outside of the function that received it.
So that none of these is missed, it ends as well where the kernel has not told a send, a receive or a close (`missed`).
A thread that is a loop may work on it as long as the callback runs that it was handed to (`callbacks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernelspan_agent.model import ProcessInfo, ResolvedBatch, Stack, StackState, ThreadTime
from kernelspan_agent.protocols.exchanges import Exchange, Told
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.alone import Needs, Scope, is_whole, runs_tasks, scope_of
from kernelspan_agent.trace.callbacks import brought_by, is_of_callbacks, is_servers
from kernelspan_agent.trace.contexts import Context, Key
from kernelspan_agent.trace.ends import Ends
from kernelspan_agent.trace.joins import Asked, Waiting
from kernelspan_agent.trace.receivers import Place, Receiver, Receivers
from kernelspan_agent.trace.segments import CORRELATION
from kernelspan_agent.trace.spans import Closed, OpenSpan
from kernelspan_api import semconv
from kernelspan_api.subjects import Request


@dataclass(slots=True, eq=False)
class Followed:
    """An exchange that a profile wants, and its span."""

    exchange: Exchange
    wanted: Request
    root: OpenSpan
    parent_id: int
    process: ProcessInfo
    ends: Ends
    fd: int  # of the connection
    context: Context | None = None  # that works on it
    correlation: str = "None"
    answers: Context | None = None  # the task that has begun to answer it
    scope: Scope | None = None  # of a thread that works on it
    own: int = 0  # the thread as its runtime has it; 0: it is the kernel's
    seen: Stack | None = None  # the last that was found to be in it
    callback: int = 0  # that it was handed to, by the generation of its operations; 0: to none
    is_answered: bool = False  # as far as can be told: its response may end with any byte
    first: ThreadTime | None = None  # of the call that its first byte came with, where that is known
    last: ThreadTime | None = None  # and of the one that the response's last byte went with
    asked: Asked | None = None  # what the other end may find
    waiting: Waiting | None = None  # for the other end


class Claims:
    """Of one profile. `out` receives the spans that close."""

    def __init__(self, out: list[Closed]) -> None:
        self._out = out
        self._receivers = Receivers()
        self._handing: set[ProcessInfo] = (
            set()
        )  # whose threads answer what others have received, and leave what they have
        self.watched: dict[Key, Followed] = {}  # whose thread must be in its scope with each operation
        self.greenlets: dict[tuple[ProcessInfo, int, int], Context] = {}
        # Those that work on a request, by what stays the same of their keys meanwhile: each step has a generation of its
        # own, but as a greenlet lives its address is nobody else's. Goroutines and tasks are known by theirs.
        self.ambiguous = 0
        self.is_blind = False  # operations are missing, nobody knows where: nothing is claimed

    def received(
        self,
        exchange: Exchange,
        followed: Followed | None,
        context: Context,
        batch: ResolvedBatch,
        row: int,
        *,
        is_asked: bool,
        is_only: bool,
    ) -> None:
        """A request has come with the operation in this row; `followed`: None if nobody wants it.

        `is_asked`: all of it; `is_only`: and nothing else.
        """
        if is_of_callbacks(_runtime_of(context)):
            self._hand_on(followed if is_only else None, context, batch, row)
            return
        is_thread = context.key[1] == ContextKind.THREAD
        place = context.process.info, int(batch.ops["fd"][row])
        receiver = self._receivers.received(exchange, context.key, place) if is_thread else None
        bound = context.request
        if bound is not None:  # it is not answered: the thread has several at a time
            self._revoke(bound)
            if is_thread and bound.fd != place[1] and not (bound.scope and bound.scope.is_server):
                self._receivers.doubt(context.key, int(batch.end_ns[row]))
        elif receiver is None:
            if followed is not None and not (context.key[1] == ContextKind.GREENLET and runs_tasks(batch.stacks[row])):
                self._bind(followed, context, None)
        else:
            self._claim(exchange, followed, context, receiver, batch, row, is_asked=is_asked)

    def take(self, followed: Followed, context: Context) -> None:
        """A task has been begun for it, and does nothing else."""
        followed.context, followed.correlation = context, "Connection"
        context.bind(followed, followed.root, self._out)

    def is_alone(self, exchange: Exchange, place: Place) -> bool:
        """Whether a thread has received it there while nothing else was open."""
        return self._receivers.open_at(place) == [exchange]

    def completed(
        self, told: Told, context: Context, find: dict[Exchange, Followed], batch: ResolvedBatch, row: int
    ) -> None:
        """The operation in this row has brought the rest of requests, or some of it."""
        place = context.process.info, int(batch.ops["fd"][row])
        bound = context.request
        if bound is not None and context.key[1] == ContextKind.THREAD and bound.fd != place[1]:
            self._revoke(bound)
            return
        for exchange in told.asked:
            followed = find.get(exchange)
            if bound is not None or (followed is not None and followed.context is not None):
                continue
            if context.key[1] == ContextKind.THREAD and exchange not in told.began:
                receiver = self._receivers.received(exchange, context.key, place)
                self._claim(exchange, followed, context, receiver, batch, row, is_asked=True, is_late=True)

    def answered(self, told: Told, context: Context, fd: int, find: dict[Exchange, Followed]) -> None:
        """The operation of this context, on this descriptor, was the last of answers."""
        for exchange in told.ended:
            followed = find.get(exchange)
            if followed is None or followed.context is None or followed.context is context:
                continue
            if followed.context.key[1] == ContextKind.THREAD:  # it has left it to this one
                if followed.scope is not None and followed.scope.needs is Needs.ALL:
                    self._handing.add(followed.process)
                self._revoke(followed)
        bound = context.request
        if bound is not None and bound.fd != fd and not bound.callback and any(each.is_server for each in told.ended):
            self._handing.add(context.process.info)
            self._revoke(bound)
        self._receivers.answered(told.ended)

    def answering(self, exchanges: Iterable[Exchange], find: dict[Exchange, Followed]) -> None:
        """Responses to them have begun that may end with any byte."""
        self._receivers.answered(exchanges)
        for exchange in exchanges:
            if (followed := find.get(exchange)) is not None:
                followed.is_answered = True

    def strays(self, context: Context, stack: Stack, batch: ResolvedBatch, row: int) -> bool:
        """Whether an operation of a watched context is not known to be for its request. One that has left is let go."""
        followed = context.request
        if followed is not None and followed.callback:
            return self._strays_from_callback(followed, stack, int(batch.ops["generation"][row]))
        if followed is None or followed.scope is None:  # it was closed
            self.watched.pop(context.key, None)
            return False
        if int(batch.ops["context"][row]) != followed.own:
            return True
        if stack is followed.seen:
            return False
        if not is_whole(stack):
            return True
        if followed.scope.holds(stack):
            followed.seen = stack
        else:
            self._revoke(followed)
        return False

    def _strays_from_callback(self, followed: Followed, stack: Stack, generation: int) -> bool:
        if stack is followed.seen and generation == followed.callback:
            return False
        is_loops = stack.state is StackState.NONE
        if is_loops or generation != followed.callback or (is_whole(stack) and not is_servers(stack)):
            self.leave(followed)  # the callback has returned
            return False
        if not is_whole(stack):
            return True
        followed.seen, followed.correlation = stack, "Connection"
        return False

    def missed(self, context: Context) -> None:
        """Calls of this context were not told: its request may be answered by them, and another received.

        A task that was begun for one request has no other, and of a callback the kernel tells each time which it is.
        """
        followed = context.request
        if followed is not None and not followed.callback and followed.correlation != "Connection":
            self._revoke(followed)

    def leave(self, followed: Followed) -> None:
        """Its context works on it no more."""
        context, followed.context = followed.context, None
        if context is not None:
            context.unbind(self._out, followed.exchange.end_ns)
            self.greenlets.pop(context.key[:3], None)
            self.watched.pop(context.key, None)

    def done(self, followed: Followed) -> None:
        """It has ended, as far as can be told."""
        self.leave(followed)
        self._receivers.answered([followed.exchange])

    def closed(self, place: Place) -> None:
        """A descriptor of a process is closed."""
        self._receivers.closed(place)

    def of_process(self, info: ProcessInfo) -> None:
        """The process has ended."""
        self._receivers.of_process(info)
        self._handing.discard(info)

    def tick(self, now_ns: int) -> None:
        """Forgets what is old."""
        self._receivers.tick(now_ns)

    def _claim(
        self,
        exchange: Exchange,
        followed: Followed | None,
        context: Context,
        receiver: Receiver,
        batch: ResolvedBatch,
        row: int,
        *,
        is_asked: bool,
        is_late: bool = False,
    ) -> None:
        now_ns = int(batch.end_ns[row])
        if int(batch.ops["context_kind"][row]) != ContextKind.THREAD:  # something that comes and goes on the thread
            self._receivers.doubt(context.key, now_ns)
            return
        scope = scope_of(_runtime_of(context), batch.stacks[row], _program_of(context))
        if is_asked and scope is None:
            self._hand(exchange, context.process.info)
        if scope is None or receiver.doubt_ns > now_ns:
            return
        if not scope.is_server:
            others = {place for each, place in receiver.open.items() if each is not exchange}
            if others:
                self.ambiguous += 1
                if others != {receiver.open[exchange]}:
                    self._receivers.doubt(context.key, now_ns)
                return
        if followed is None or not _has_what_it_needs(scope, exchange, is_asked=is_asked, is_late=is_late):
            return
        if scope.frames is not None and (
            context.process.info in self._handing or (not scope.is_server and len(receiver.connections) > 1)
        ):
            return
        if scope.needs is Needs.ALL and context.process.info in self._receivers.handed:
            return
        followed.own = int(batch.ops["context"][row])
        self._bind(followed, context, scope)

    def _hand_on(self, followed: Followed | None, context: Context, batch: ResolvedBatch, row: int) -> None:
        """A loop has received it, and calls what it is to be handed to; nothing else goes on meanwhile."""
        if context.request is not None:
            self.leave(context.request)
        callback = brought_by(batch, row)
        if followed is None or not followed.exchange.has_head or not callback:
            return
        followed.context, followed.callback = context, callback
        context.bind(followed, followed.root, self._out)
        self.watched[context.key] = followed

    def _hand(self, exchange: Exchange, info: ProcessInfo) -> None:
        """A thread of the pool will take it on: one that has left its own request unanswered looks as if it worked on that."""
        self._receivers.hand(exchange, info)
        for followed in [each for key, each in self.watched.items() if key[0] is info]:
            if followed.scope is not None and followed.scope.needs is Needs.ALL:
                self._revoke(followed)

    def _bind(self, followed: Followed, context: Context, scope: Scope | None) -> None:
        if self.is_blind:
            return
        followed.context, followed.correlation = context, CORRELATION[ContextKind(context.key[1])]
        followed.scope = scope
        context.bind(followed, followed.root, self._out)
        if context.key[1] == ContextKind.GREENLET:
            self.greenlets[context.key[:3]] = context
        if scope is not None and scope.frames is not None:
            self.watched[context.key] = followed

    def _revoke(self, followed: Followed) -> None:
        """Nothing is claimed for it from here."""
        self.ambiguous += 1
        self.leave(followed)
        followed.correlation = "None"
        if followed.waiting is not None:  # nor what was sent meanwhile
            followed.waiting.refuted = True


def _runtime_of(context: Context) -> str:
    return str(context.process.info.resource.attributes.get(semconv.PROCESS_RUNTIME_NAME, ""))


def _program_of(context: Context) -> str:
    return str(context.process.info.resource.attributes.get(semconv.PROCESS_EXECUTABLE_NAME, ""))


def _has_what_it_needs(scope: Scope, exchange: Exchange, *, is_asked: bool, is_late: bool) -> bool:
    if scope.needs in {Needs.ALL, Needs.AT_ONCE}:
        return is_asked and (scope.needs is Needs.ALL or not is_late)
    return not is_late and (scope.needs is Needs.NOTHING or exchange.has_head)
