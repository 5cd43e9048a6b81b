# SPDX-License-Identifier: Apache-2.0
"""Probes on functions of the kernel, on the oldest and the newest kernel (`make matrix`: on all four): every call counted by
every mechanism that there is, with its argument and its result; and what a kernel lacks is said.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels
from tests.vm import probing, reference
from tests.vm.guests import Visits, run, visited

HAS_MULTI = ("6.12", "newest")  # Debian's 6.1 is built without CONFIG_FPROBE, 5.10 is older than it
TELLS_MISSED = ("6.12", "newest")
ALL = [mechanism.value for mechanism in probing.MECHANISMS]


@dataclass(frozen=True, slots=True)
class Survey:
    """What tests.vm.probing found on a kernel."""

    kernel: kernels.Kernel
    found: dict[str, Any]


def _visit(kernel: kernels.Kernel, folder: Path) -> Survey:
    result = folder / "found.json"
    ran = run(kernel, [sys.executable, "-m", "tests.vm.probing", str(result)], folder)
    assert ran.status == 0, ran.output
    return Survey(kernel, json.loads(result.read_text()))


VISITS = (Visits("probed", _visit),)


@pytest.fixture(scope="module", params=kernels.wanted_labels())
def probed(request: pytest.FixtureRequest) -> Survey:
    """One of the kernels."""
    return visited(request, VISITS[0], request.param)


def there(probed: Survey) -> list[str]:
    """The mechanisms that this kernel has."""
    return [name for name in ALL if name != "KprobeMulti" or probed.kernel.label in HAS_MULTI]


def test_every_mechanism_is_told_truly(probed: Survey) -> None:
    """What the kernel has counts; what it has not says so, by attaching and not by its version."""
    states = {name: check["state"] for name, check in probed.found["checks"].items()}
    multi = "ok" if probed.kernel.label in HAS_MULTI else "no"
    assert states == {
        **dict.fromkeys(("kprobe", "kretprobe", "fentry", "fexit", "uprobe", "uretprobe", "usdt-semaphore"), "ok"),
        **dict.fromkeys(("kprobe.multi", "kretprobe.multi"), multi),
    }
    assert set(probed.found["called"]) == set(there(probed))


def test_four_capabilities_are_enough(probed: Survey) -> None:
    """What an agent's pod has: every mechanism works that works for root. Not at Debian's own level of perf_event_paranoid,
    which is told with what to do; what goes by bpf(2) alone works there, too.
    """
    as_root = {name: check["state"] for name, check in probed.found["checks"].items()}
    assert {name: said[0] for name, said in probed.found["least"]["2"].items()} == as_root
    strict = probed.found["least"]["3"]
    for name, (state, reason, hint) in strict.items():
        if state != as_root[name]:
            assert name in {"kprobe", "kretprobe", "uprobe", "uretprobe", "usdt-semaphore"}
            assert (state, reason) == ("no", "PermissionDenied")
            assert "perf_event_paranoid=2" in hint
    assert strict["kprobe"][0] == "no"
    assert strict["fentry"][0] == strict["fexit"][0] == "ok"


@pytest.mark.parametrize("mechanism", ALL)
def test_every_call_with_its_argument_and_its_result(probed: Survey, mechanism: str) -> None:
    """N calls, N entries and N returns; the sums of what the programs saw are those of what the caller did and got."""
    if mechanism not in there(probed):
        assert mechanism not in probed.found["called"]
        return
    called = probed.found["called"][mechanism]
    assert len(set(called["results"])) == 1
    assert called["results"][0] < 0
    results = sum(result & 0xFFFF_FFFF for result in called["results"])
    assert called["entered"] == [len(probing.OFFSETS), sum(probing.OFFSETS)]
    assert called["left"] == [len(probing.OFFSETS), results]


def test_the_cheapest_is_taken(probed: Survey) -> None:
    """fentry; where several functions share a name, or a module has no type information, what takes them."""
    automatic = probed.found["automatic"]
    assert automatic[probing.CALLED] == ["Fentry"]
    assert automatic[probing.SHARED] == ["KprobeMulti" if probed.kernel.label in HAS_MULTI else "Kprobe"]
    module = probed.found["module"]
    assert module == {
        "mechanism": "Kprobe" if probed.kernel.label == kernels.OLDEST else "Fentry",
        "counted": probing.FOLDERS,
    }


def test_refusals_say_why(probed: Survey) -> None:
    """Code that nothing may probe; one name of several functions by fentry; a mechanism that is not there, with those that are."""
    reason, words = probed.found["automatic"][probing.ENTRY_CODE]
    assert reason == "FunctionBlacklisted"
    assert probing.ENTRY_CODE in words
    forced = probed.found["forced"]
    reason, words = forced["Fentry"][probing.SHARED]
    assert reason == "MechanismUnsupported"
    assert "functions are called state_show" in words
    if "KprobeMulti" not in there(probed):
        reason, words = forced["KprobeMulti"][probing.SHARED]
        assert reason == "MechanismUnsupported"
        assert words.endswith("this kernel has Fentry, Kprobe")


def test_returns_of_many_threads_at_once(probed: Survey) -> None:
    """fexit sees all but what the kernel says it skipped; the others never more than there were, and where the kernel tells what
    it left out the sum is exact.
    """
    blocked = probed.found["blocked"]
    for mechanism in there(probed):
        found = blocked[mechanism]
        entries_skipped, returns_skipped = found["skipped"]
        told = mechanism != "Fentry" and probed.kernel.label in TELLS_MISSED
        assert found["entered"] + entries_skipped + (found["missed"][0] if told else 0) == probing.SLEEPERS
        assert 0 < found["left"] <= probing.SLEEPERS
        if mechanism == "Fentry":
            assert found["left"] + returns_skipped == probing.SLEEPERS
        elif told:
            assert found["left"] + returns_skipped + found["missed"][1] == probing.SLEEPERS
        else:
            assert found["missed"] == [None, None]


def test_a_program_that_was_detached(probed: Survey) -> None:
    """It can be attached again, except by fentry on the oldest kernel, where it is loaded anew."""
    again = probed.found["again"]
    assert again == {name: name != "Fentry" or probed.kernel.label != kernels.OLDEST for name in there(probed)}


if set(kernels.wanted_labels()) == set(kernels.SUITES):  # make matrix

    def test_the_reference_page_is_written(request: pytest.FixtureRequest) -> None:
        """From all kernels, every mechanism tried on each."""
        surveys = [visited(request, VISITS[0], label) for label in kernels.SUITES]
        found = {survey.kernel.release: survey.found for survey in surveys}
        assert len(found) == len(kernels.SUITES)
        reference.write_probing(found)
