# SPDX-License-Identifier: Apache-2.0
"""Whether a thread that receives a request works on that alone: what its frames prove.

A thread of CPython or PHP does one thing after another, but for event loops, whose frames tell. One that has no frames then may be a loop
in C: it is only believed in a server that is known (uwsgi, which reads a request before it calls Python).

Threads of Ruby and Java stand in pools: one may leave what it has received to another, and go on with what another has
received. So there it is proved by the function that received it, which must not have returned: in a server that is known it
is the one that reads a request, works on it and answers it; in any other the thread must have read it by a call that blocks,
and have no other connection open. Each operation's frames must go on from those of the call that brought the request.

What the servers do is read from their sources: puma 3 to 7, Tomcat 8 to 11, Jetty 9 to 12, jdk.httpserver 8 to 25.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from kernelspan_agent.model import Frame, Stack, StackState

# Frames of event loops, by the beginnings of their names: which callback runs under them, nobody has said.
_PYTHON_TASK_LOOPS = (
    "asyncio.",
    "twisted.internet.",
    "tornado.ioloop",
    "curio.",
    "trio.",
)  # which have one stack for all
_PYTHON_LOOPS = (*_PYTHON_TASK_LOOPS, "eventlet.", "gevent.")
_RUBY_LOOPS = (
    "Puma::Reactor#", "NIO::", "Async::", "IO::Event", "EventMachine", "Celluloid::", "Polyphony", "Iodine", "Agoo::",
)  # fmt: skip
_JAVA_LOOPS = (
    "io.netty.", "org.jboss.netty.", "org.xnio.", "io.vertx.", "reactor.", "org.glassfish.grizzly.", "org.apache.mina.",
    "akka.", "org.apache.pekko.", "kotlinx.coroutines.", "scala.concurrent.", "cats.effect.", "zio.", "clojure.core.async",
    "io.reactivex.", "org.jruby.", "org.truffleruby.",
    "java.util.concurrent.ForkJoin",  # who waits for a task there runs others meanwhile
    "java.lang.VirtualThread", "jdk.internal.vm.Continuation",
)  # fmt: skip


class Needs(enum.Enum):
    """How much of a request a call must have completed for its thread to be the one that works on it."""

    NOTHING = enum.auto()  # the thread waits for the rest
    HEAD = enum.auto()  # one whose head is not complete may be left to another thread
    AT_ONCE = enum.auto()  # one that is not complete with its head may be
    ALL = enum.auto()  # one that is not complete may be; who completes it works on it


_RUBY_SERVERS = {"Puma::Server#process_client": Needs.ALL}
_JAVA_SERVERS = {
    "sun.net.httpserver.ServerImpl$Exchange.run": Needs.NOTHING,
    "org.apache.coyote.http11.Http11Processor.service": Needs.HEAD,
    "org.eclipse.jetty.server.HttpConnection.onFillable": Needs.AT_ONCE,
    "org.eclipse.jetty.server.internal.HttpConnection.onFillable": Needs.AT_ONCE,
}
_JAVA_BLOCKING = ("java.net.SocketInputStream.", "java.net.Socket$SocketInputStream.", "sun.nio.ch.NioSocketImpl.")
_RUBY_WITHIN = re.compile(r"(?:block(?: \(\d+ levels\))? in |(?:rescue|ensure) in )+")
_RUBY_SAME_BLOCK = "Kernel#loop"  # it calls one block alone, as long as it lasts
_SERVERS_IN_C = {"uwsgi", "uwsgi-core"}  # Debian's name is the second
_UNKNOWN_SITES = {0, 0xFFFFFFFF}


@dataclass(frozen=True, slots=True)
class _Rules:
    """Of one runtime. `servers`: functions that read, work and answer; `blocks`: whether a stack is of a call that blocks."""

    loops: tuple[str, ...]
    servers: dict[str, Needs] | None = None  # None: a thread does one thing after another


_PYTHON, _RUBY, _JAVA = _Rules(_PYTHON_LOOPS), _Rules(_RUBY_LOOPS, _RUBY_SERVERS), _Rules(_JAVA_LOOPS, _JAVA_SERVERS)
_RULES = {
    "cpython": _PYTHON,
    "php": _PYTHON,
    "cruby": _RUBY,
    "openjdk runtime environment": _JAVA,
    "java(tm) se runtime environment": _JAVA,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a thread must still be in to work on what it has received.

    `frames`: of the call that brought it, outermost first; the `depth` outermost of them must go on. None: it may be anywhere.
    """

    frames: tuple[Frame, ...] | None = None
    depth: int = 0
    needs: Needs = Needs.NOTHING
    is_server: bool = False  # of one that is known; else no other connection of the thread may be open

    def holds(self, stack: Stack) -> bool:
        """Whether these frames, which are whole, can be of the same call of the innermost function that went on."""
        if self.frames is None:
            return True
        at = 0
        for before, now in zip(self.frames, reversed(stack.frames), strict=False):
            if before.function != now.function or before.file != now.file:
                return self.is_server and at >= self.depth  # else the one around has called another at the same place
            if before.call_site != now.call_site and not _UNKNOWN_SITES & {before.call_site, now.call_site}:
                return at >= self.depth - 1 and (self.is_server or self._is_same_call(at))
            at += 1
        return at >= self.depth

    def _is_same_call(self, at: int) -> bool:
        """Ruby's blocks have no names: another one of the same method may have been called at the same place."""
        assert self.frames is not None
        if at == 0 or not _RUBY_WITHIN.match(self.frames[at].function):
            return True
        return self.frames[at - 1].function.endswith(_RUBY_SAME_BLOCK)


def scope_of(runtime: str, stack: Stack, program: str = "") -> Scope | None:
    """Of a thread of this runtime (process.runtime.name), in a program (process.executable.name), that has received a request here.

    None: it claims nothing.
    """
    rules = _RULES.get(runtime.lower())
    if rules is None or not is_whole(stack):
        return Scope() if program in _SERVERS_IN_C and _is_outside(rules, stack) else None
    names = [frame.function for frame in reversed(stack.frames)]
    if rules is _RUBY:
        names = [_RUBY_WITHIN.sub("", name) for name in names]
    if any(name.startswith(rules.loops) for name in names):
        return None
    if rules.servers is None:
        return Scope()
    frames = tuple(reversed(stack.frames))
    for depth, name in enumerate(names, 1):
        if name in rules.servers:
            return Scope(frames, depth, rules.servers[name], is_server=True)
    if rules is _RUBY:
        if any("nonblock" in name for name in names):
            return None
    elif not any(name.startswith(_JAVA_BLOCKING) for name in names):
        return None
    return Scope(frames, 1)


def _is_outside(rules: _Rules | None, stack: Stack) -> bool:
    """Whether the thread is known to have no frames."""
    return rules is _PYTHON and stack.state is StackState.NONE and not stack.reason


def runs_tasks(stack: Stack) -> bool:
    """Whether it is that of a loop's own: in a process that uses greenlets besides, that is a greenlet, too."""
    return any(frame.function.startswith(_PYTHON_TASK_LOOPS) for frame in stack.frames)


def is_whole(stack: Stack) -> bool:
    """Whether all frames are there, by their names."""
    return stack.state is StackState.COMPLETE and bool(stack.frames) and all(each.function for each in stack.frames)
