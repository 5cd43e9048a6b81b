# SPDX-License-Identifier: Apache-2.0
"""Threads whose calls the kernel would keep in one place (bpf/include/place.h): there is only one here, and all want it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.probes import bpf, constants, mechanisms
from tests.support import runs
from tests.support.compiled import compiled
from tests.support.engines import engines, programs

pytestmark = pytest.mark.root
LOOKS = 7
IN_A_HANDLER = """
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static void again(int number)
{
	execl("/bin/true", "true", (char *)0);
	_exit(9);
}

static void *sleeper(void *set)
{
	struct timespec minute = {60};

	pthread_sigmask(SIG_UNBLOCK, set, 0);
	nanosleep(&minute, 0);
	_exit(8);
}

int main(void)
{
	pthread_t thread;
	sigset_t set;

	signal(SIGUSR1, again);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	pthread_create(&thread, 0, sleeper, &set);
	usleep(200000);
	pthread_kill(thread, SIGUSR1);
	pause();
}
"""


@pytest.mark.parametrize("mechanism", [mechanisms.RAW_TRACEPOINT, mechanisms.TRACEPOINT], ids=lambda each: each.name)
def test_one_place_for_all(mechanism: mechanisms.Mechanism, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has it, in the midst of a call; the second does not take it, the third does once the first has ended."""
    monkeypatch.setattr(constants, "PLACES", 1)
    spec = {"files": {"operations": ["Stat"]}, "waits": {"operations": ["Sleep"]}}
    with engines(mechanism=mechanism) as make, programs() as begin:
        made = make(spec)
        made.add("p", spec)
        first, second = begin(), begin()
        for each in (first, second):
            made.trace(each, "p")
        first.do("look first")
        first.say("sleep 1")
        made.until(lambda: sum(made.engine.session.in_flight().values()) == 1, "the first sleeps")
        for number in range(LOOKS):
            second.do(f"look second-{number}")
        assert not first.answered()  # it sleeps still
        second.say("sleep 0.5")
        made.until(lambda: sum(made.engine.session.in_flight().values()) == 2, "both sleep")
        for each in (first, second):
            each.answer()
        first.close()
        third = begin()
        made.trace(third, "p")
        third.do("look third")
        maps = made.engine.session._loader.maps
        assert _numbers(maps["ks_taken"], value=True) == [third.pid]
        assert _numbers(maps["ks_more_calls"]) == [second.pid]
        second.do("look last")
        made.until(lambda: "last" in made.seen["p"].marks, "the last is seen")
        made.end()
        expected = ["first", *(f"second-{number}" for number in range(LOOKS)), "third", "last"]
        assert made.seen["p"].marks == expected
        assert [name for name, _ in made.seen["p"].spans].count("wait.sleep") == 2


def test_a_call_that_an_exec_ends(tmp_path: Path) -> None:
    """A thread that is not the first sleeps; a signal's handler execs: the call has no return, and the thread another number."""
    program = compiled(tmp_path, IN_A_HANDLER, "-pthread")
    ran = runs.run(tmp_path, runs.profile(tmp_path, files={}, processes={}, waits={"operations": ["Sleep"]}), program)
    assert ran.status == 0
    assert ran.balance["dropped"].get("TargetGone", 0) >= 1
    assert ran.balance["inFlight"] == 0


def _numbers(map_fd: int, *, value: bool = False) -> list[int]:
    """The keys of a map, or its values."""
    found = list(bpf.map_keys(map_fd, 4))
    values = [bpf.map_lookup(map_fd, key, 4) or b"" for key in found] if value else found
    return [int.from_bytes(each, "little") for each in values]
