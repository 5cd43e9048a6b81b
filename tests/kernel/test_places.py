# SPDX-License-Identifier: Apache-2.0
"""Threads whose calls the kernel would keep in one place (bpf/include/place.h): there is only one here, and all want it."""

from __future__ import annotations

import pytest

from kernelspan_agent.probes import constants, mechanisms
from tests.support.engines import engines, programs

pytestmark = pytest.mark.root
LOOKS = 7


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
        second.do("look last")
        made.until(lambda: "last" in made.seen["p"].marks, "the last is seen")
        made.end()
        expected = ["first", *(f"second-{number}" for number in range(LOOKS)), "third", "last"]
        assert made.seen["p"].marks == expected
        assert [name for name, _ in made.seen["p"].spans].count("wait.sleep") == 2
