# SPDX-License-Identifier: Apache-2.0
"""Which threads of Ruby and Java work on what they have received: against all that looks as if they did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Frame, Origin, Stack, StackState
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.alone import scope_of
from kernelspan_agent.trace.receivers import DOUBT_NS, MAX_THREADS, Receivers
from tests.unit.trace.builders import MS, at, process
from tests.unit.trace.test_requests import ANSWER, Server, python, requests_of, wants

RUBY, JAVA = "CRuby", "OpenJDK Runtime Environment"


def of(*names: str, state: StackState = StackState.COMPLETE) -> Stack:
    """A stack from `outermost@site` to the innermost."""
    frames = []
    for name in reversed(names):
        function, _, site = name.partition("@")
        frames.append(
            Frame(function, f"{function.split('#')[0]}.x", int(site or 1), Origin.LIBRARY, None, int(site or 1))
        )
    return Stack(tuple(frames), state)


WORKER = ("java.lang.Thread.run@1", "java.util.concurrent.ThreadPoolExecutor.runWorker@2")
EXCHANGE = (*WORKER, "sun.net.httpserver.ServerImpl$Exchange.run")
READS, WORKS = (
    of(f"{EXCHANGE[0]}", EXCHANGE[1], f"{EXCHANGE[2]}@3", "sun.nio.ch.SocketChannelImpl.read"),
    of(EXCHANGE[0], EXCHANGE[1], f"{EXCHANGE[2]}@9", "Shop.handle@1"),
)
TASK = of(*WORKER, "java.util.concurrent.CompletableFuture$AsyncRun.run", "Shop.handle@1")
PUMA = ("block in Puma::ThreadPool#spawn_thread@1", "Puma::Server#process_client@")
PUMA_READS, PUMA_WORKS = (
    of(PUMA[0], PUMA[1] + "4", "Puma::Client#try_to_finish"),
    of(PUMA[0], PUMA[1] + "9", "Shop#call"),
)
REACTOR = of("block in Puma::Reactor#run@1", "Puma::Reactor#select_loop@2", "Puma::Client#try_to_finish@3")
THREAD = of("block in <main>@1", "Object#serve@2", "IO#gets")
THREAD_WORKS = of("block in <main>@1", "Object#serve@7", "Object#work")
SOCKET = "java.net.Socket$SocketInputStream.read"
HEAD = b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\n"


def correlations(server: Server) -> dict[str, str]:
    return {
        str(each.attributes["url.path"]): str(each.attributes["kernelspan.correlation"])
        for each in requests_of(server.end())
    }


@pytest.mark.parametrize(
    ("runtime", "reads", "works"),
    [(JAVA, READS, WORKS), (RUBY, PUMA_READS, PUMA_WORKS), (RUBY, THREAD, THREAD_WORKS)],
)
def test_what_goes_on_in_the_function_that_received_it_is_the_requests(
    runtime: str, reads: Stack, works: Stack
) -> None:
    """From the call that brought it to the answer."""
    server = Server(app=python(runtime))
    server.receive("/a", place=reads)
    inside = server.do(works)
    server.answer(place=works)
    after = server.do(works)
    assert correlations(server) == {"/a": "Thread"}
    assert (server.owner(inside), server.owner(after)) == ("/a", "")


LOOPS = [
    (JAVA, of("java.lang.Thread.run", "io.netty.channel.nio.NioEventLoop.run", SOCKET)),
    (JAVA, of("java.lang.Thread.run", "Own.loop", "sun.nio.ch.SocketChannelImpl.read")),
    (JAVA, of("java.util.concurrent.ForkJoinWorkerThread.run", *EXCHANGE[2:], SOCKET)),
    (JAVA, of("java.lang.VirtualThread.run", "Own.serve", SOCKET)),
    (JAVA, of("java.lang.Thread.run", "", SOCKET)),
    (JAVA, Stack(READS.frames, StackState.TRUNCATED)),
    (JAVA, Stack((), StackState.NONE)),
    (RUBY, REACTOR),
    (RUBY, of("block in Async::Task#run", "IO#readpartial")),
    (RUBY, of("EventMachine.run", "EventMachine.run_machine", "IO#readpartial")),
    (RUBY, of("block in <main>", "BasicSocket#read_nonblock")),
    (RUBY, Stack(THREAD.frames, StackState.TRUNCATED)),
    ("Node.js", THREAD),
]


@pytest.mark.parametrize(("runtime", "reads"), LOOPS)
def test_a_loop_or_what_may_be_one_claims_nothing(runtime: str, reads: Stack) -> None:
    """By its frames, or by what is missing of them."""
    server = Server(app=python(runtime))
    server.receive("/a", place=reads)
    inside = server.do(reads)
    server.answer()
    assert (correlations(server), server.owner(inside)) == ({"/a": "None"}, "")


def test_a_thread_that_has_left_the_function_works_on_something_else() -> None:
    """Its pool has given it another task: that may be any request's."""
    server = Server(app=python(JAVA))
    server.receive("/a", place=READS)
    first, other, later = server.do(WORKS), server.do(TASK), server.do(WORKS)
    server.answer(tid=8)
    assert correlations(server) == {"/a": "None"}
    assert [server.owner(each) for each in (first, other, later)] == ["/a", "", ""]


@pytest.mark.parametrize("state", [StackState.TRUNCATED, StackState.NONE, StackState.UNRESOLVED])
def test_an_operation_whose_frames_are_not_all_known_is_nobodys(state: StackState) -> None:
    """The next one that is known may be the request's again."""
    server = Server(app=python(JAVA))
    server.receive("/a", place=READS)
    unknown, known = server.do(Stack(WORKS.frames, state)), server.do(WORKS)
    server.answer(place=WORKS)
    assert correlations(server) == {"/a": "Thread"}
    assert (server.owner(unknown), server.owner(known)) == ("", "/a")


def test_a_block_of_the_same_name_may_be_another() -> None:
    """Ruby's have none of their own: a job that a pool calls where it called the one before, unless `loop` calls it."""
    for around, owner in (("Pool#run@2", ""), ("Kernel#loop@2", "/a")):
        job = ("block in <main>@1", around, "block (2 levels) in <main>@")
        server = Server(app=python(RUBY))
        server.receive("/a", place=of(*job[:2], job[2] + "3", "IO#readpartial"))
        inside = server.do(of(*job[:2], job[2] + "8"))
        server.end()
        assert server.owner(inside) == owner


def test_puma_leaves_what_is_not_complete_to_its_reactor() -> None:
    """Its thread works on another that is; who completes a request itself works on it."""
    server = Server(app=python(RUBY))
    server.move(HEAD, sends=False, on=1, place=PUMA_READS)
    other = server.do(PUMA_WORKS)
    server.move(b"body", sends=False, on=1, place=REACTOR, tid=9)
    server.answer(on=1, place=PUMA_WORKS)
    server.move(HEAD.replace(b"/a", b"/b"), sends=False, on=2, place=PUMA_READS)
    server.move(b"body", sends=False, on=2, place=PUMA_READS)
    inside = server.do(PUMA_WORKS)
    server.answer(on=2, place=PUMA_WORKS)
    assert correlations(server) == {"/a": "None", "/b": "Thread"}
    assert (server.owner(other), server.owner(inside)) == ("", "/b")


def test_what_pumas_reactor_hands_over_may_be_anybodys() -> None:
    """One whose connection the application took away looks as if it was still at work on that."""
    server = Server(app=python(RUBY))
    server.receive("/taken", on=1, place=PUMA_READS)
    first = server.do(PUMA_WORKS)
    server.receive("/handed", on=2, place=REACTOR, tid=9)
    second = server.do(PUMA_WORKS)
    server.receive("/third", on=3, place=PUMA_READS, tid=8)
    server.answer(on=2, place=PUMA_WORKS)
    server.receive("/fourth", on=4, place=PUMA_READS, tid=10)
    assert correlations(server) == {"/taken": "None", "/handed": "None", "/third": "None", "/fourth": "Thread"}
    assert [server.owner(each) for each in (first, second)] == ["/taken", ""]


def test_who_answers_what_another_has_received_hands_over() -> None:
    """Then no thread of the process claims anything by its frames."""
    server = Server(app=python(JAVA))
    server.receive("/a", on=1, place=READS)
    server.receive("/b", on=2, place=READS, tid=8)
    server.answer(on=2, place=WORKS)
    server.receive("/c", on=3, place=READS, tid=9)
    assert correlations(server) == {"/a": "None", "/b": "None", "/c": "None"}


def test_a_thread_that_is_alone_has_one_connection() -> None:
    """Of a server that is not known; when the other is closed it is alone again."""
    server = Server(app=python(RUBY))
    server.receive("/a", on=1, place=THREAD)
    server.answer(on=1, place=THREAD_WORKS)
    server.receive("/b", on=2, place=THREAD)
    server.answer(on=2, place=THREAD_WORKS)
    server.close(on=1)
    server.receive("/c", on=2, place=THREAD)
    assert correlations(server) == {"/a": "Thread", "/b": "None", "/c": "Thread"}


def test_a_loop_that_nobody_knew_is_one_for_some_time() -> None:
    """As long as it has anything open, and a minute more."""
    server = Server(app=python(RUBY))
    for on, path in enumerate(["/a", "/b", "/c", "/d"], 1):
        server.receive(path, on=on, place=THREAD)
        inside = server.do(THREAD_WORKS)
        assert on == 1 or server.owner(inside) == "" or not server.end()
    for on in range(1, 5):
        server.answer(on=on, place=THREAD_WORKS)
        server.close(on=on)
    server.receive("/e", on=6, place=THREAD)
    server.answer(on=6, place=THREAD_WORKS)
    server.close(on=6)
    server.clock += DOUBT_NS / MS
    server.receive("/f", on=7, place=THREAD)
    assert correlations(server) == dict.fromkeys(["/a", "/b", "/c", "/d", "/e"], "None") | {"/f": "Thread"}


def test_a_request_that_nobody_wants_tells_against_a_thread_too() -> None:
    """It has it at hand all the same."""
    server = Server(wants(ignorePaths=["/healthz"]), app=python(RUBY))
    server.receive("/healthz", on=1, place=THREAD)
    server.receive("/a", on=2, place=THREAD)
    inside = server.do(THREAD_WORKS)
    assert (correlations(server), server.owner(inside)) == ({"/a": "None"}, "")


def test_bytes_of_another_request_tell_against_a_thread() -> None:
    """A head that is not complete yet: whose it will be, the thread alone knows."""
    server = Server(app=python(RUBY))
    server.receive("/a", on=1, place=THREAD)
    server.move(b"GET /b HT", sends=False, on=2, place=THREAD)
    inside = server.do(THREAD_WORKS)
    assert (correlations(server), server.owner(inside)) == ({"/a": "None"}, "")


def test_a_fiber_that_receives_makes_a_loop_of_its_thread() -> None:
    """And what a fiber of a thread does is not known to be the thread's request's."""
    fiber = {"kind": ContextKind.FIBER, "address": 4096}
    server = Server(app=python(RUBY))
    server.receive("/a", on=1, place=THREAD)
    other = server.do(THREAD_WORKS, **fiber)
    server.answer(on=1, place=THREAD_WORKS)
    server.close(on=1)
    server.receive("/b", on=2, place=THREAD, **fiber)
    server.answer(on=2, place=THREAD_WORKS)
    server.close(on=2)
    server.receive("/c", on=3, place=THREAD)
    assert correlations(server) == {"/a": "Thread", "/b": "None", "/c": "None"}
    assert server.owner(other) == ""


def test_a_thread_of_rubys_is_not_the_kernels() -> None:
    """Since 3.3 one of these may carry several of those in turn."""
    server = Server(app=python(RUBY))
    server.receive("/a", place=THREAD, address=4096)
    own, other = server.do(THREAD_WORKS, address=4096), server.do(THREAD_WORKS, address=8192)
    server.end()
    assert [server.owner(each) for each in (own, other)] == ["/a", ""]


def test_what_is_told_by_later_calls_is_not_known_before() -> None:
    """A batch is read whole: an answer in it has not been sent before its call."""
    server = Server(app=python(RUBY))
    server.receive("/a", on=1, place=THREAD)
    server.receive("/b", on=2, place=THREAD)
    server.answer(on=1, data=b"HTTP/1.0 200 OK\r\n\r\nsome")
    server.receive("/c", on=3, place=THREAD)
    server.answer(on=2, data=ANSWER)
    assert set(correlations(server).values()) == {"None"}


STEPS = st.lists(st.tuples(st.sampled_from("rbac"), st.integers(1, 3), st.integers(1, 4)), max_size=40)


@given(STEPS)
def test_receivers_keep_nothing_of_what_has_ended(steps: list[tuple[str, int, int]]) -> None:
    """Whatever comes in whatever order: when all is closed and doubts are old, none is left."""
    from kernelspan_agent.protocols.exchanges import Exchange

    info, receivers, made = process(), Receivers(), []
    for what, thread, fd in steps:
        if what == "r":
            made.append(Exchange(True, at(0)))
            receivers.received(made[-1], (info, 0, thread, 0), (info, fd))
        elif what == "b" and made:
            receivers.received(made[fd % len(made)], (info, 0, thread, 0), (info, fd))
            receivers.hand(made[fd % len(made)], info)
        elif what == "a":
            receivers.answered(made[thread:])
        else:
            receivers.closed((info, fd))
            receivers.doubt((info, 0, thread, 0), 0)
    for fd in range(1, 5):
        receivers.closed((info, fd))
    receivers.tick(DOUBT_NS + 1)
    assert not len(receivers)
    assert not receivers.handed


def test_receivers_are_bounded() -> None:
    """The first are forgotten."""
    receivers, info = Receivers(), process()
    for thread in range(MAX_THREADS + 10):
        receivers.doubt((info, 0, thread, 0), 0)
    assert len(receivers) == MAX_THREADS
    receivers.of_process(info)
    assert not len(receivers)


def test_a_server_in_c() -> None:
    """uwsgi reads a request before it calls Python: what has no frames then is believed of it alone, and only where there are none."""
    outside = Stack((), StackState.NONE)
    assert scope_of("CPython", outside, "uwsgi") is not None
    assert scope_of("CPython", outside, "granian") is None
    assert scope_of("CRuby", outside, "uwsgi") is None
    assert scope_of("CPython", Stack((), StackState.NONE, "NoThreadState"), "uwsgi") is None
    assert scope_of("CPython", Stack((), StackState.RUNTIME_PENDING, "RuntimePending"), "uwsgi") is None
    assert scope_of("CPython", of("asyncio.base_events.BaseEventLoop.run_forever@1"), "uwsgi") is None


NAMES = st.sampled_from([*THREAD.frames, *PUMA_READS.frames, *READS.frames, *TASK.frames, *REACTOR.frames])
STACKS = st.builds(lambda frames: Stack(tuple(frames)), st.lists(NAMES, max_size=6))


@given(st.sampled_from([RUBY, JAVA, "CPython", "PHP", ""]), STACKS, STACKS)
def test_a_scope_holds_where_it_began(runtime: str, one: Stack, other: Stack) -> None:
    """And where it holds the outermost function is the same."""
    scope = scope_of(runtime, one)
    if scope is None:
        return
    assert scope.holds(one)
    if scope.frames is not None and other.frames and scope.holds(other):
        assert other.frames[-1].function == one.frames[-1].function
