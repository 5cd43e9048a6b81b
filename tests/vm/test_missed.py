# SPDX-License-Identifier: Apache-2.0
"""Returns that a kretprobe loses, where many threads are in one function at once: no wrong span, none unaccounted for, and
told of where the kernel counts them. fexit has room for all; what the kernel leaves out of it, as another thread on that CPU
was in the program (Recursion), is no more than it says.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels, runs
from tests.support.otlp_json import ReceivedSpan
from tests.vm.guests import Visits, run, visited

SLEEPERS = 103
FUNCTION = "do_nanosleep"
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.NEWEST]  # which tells
PROBES: list[dict[str, Any]] = [
    {"name": "kept", "kprobe": {"call": FUNCTION, "mechanism": "Fentry"}},
    {"name": "lossy", "kprobe": {"call": FUNCTION, "mechanism": "Kprobe"}},
]


@dataclass(frozen=True, slots=True)
class Left:
    """What was left by many that slept at once."""

    release: str
    output: str
    report: dict[str, Any]
    spans: list[ReceivedSpan]


def _visit(kernel: kernels.Kernel, folder: Path) -> Left:
    spans, report = (folder / name for name in ("spans", "report"))
    profile = runs.profile(folder, probes=PROBES, code={"stacks": "None"})
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(profile), "--output", str(spans), "--report", str(report)]
    command += ["--", runs.SYSTEM_PYTHON, "-S", "-m", "tests.vm.sleepers", str(SLEEPERS)]
    ran = run(kernel, command, folder)
    assert ran.status == 0, ran.output
    return Left(kernel.release, ran.output, json.loads(report.read_text()), runs.read_spans(spans))


VISITS = (Visits("left", _visit),)


@pytest.fixture(params=LABELS)
def left(request: pytest.FixtureRequest) -> Left:
    """What one of the kernels left."""
    return visited(request, VISITS[0], request.param)


def test_returns_that_are_lost(left: Left) -> None:
    """What has no span is a call whose return was never seen."""
    found = left.report
    runs.check_balance(found)
    seen = Counter(span.attributes["kernelspan.probe.name"] for span in left.spans if span.name in ("kept", "lossy"))
    missed = {probe["name"]: probe["missed"] for probe in found["probes"]}
    left_out = (missed["kept"] or {}).get("Recursion", 0)  # entries or returns
    assert SLEEPERS - left_out <= seen["kept"] <= SLEEPERS
    lost = SLEEPERS - seen["lossy"]
    assert lost > left_out  # else the kernel has room for so many: let more sleep
    operations = found["operations"]
    assert 2 * SLEEPERS - left_out <= operations["seen"] <= 2 * SLEEPERS
    unreturned = operations["seen"] - seen.total()
    assert operations["inFlight"] + sum(operations["dropped"].values()) == unreturned
    assert set(operations["dropped"]) <= {"Skipped", "TargetGone"}
    if _counts(left.release, 6, 7):
        assert (
            missed["lossy"]["TooManyInside"] + missed["lossy"].get("Recursion", 0) >= lost
        )  # the agent sleeps as well
        assert "probe lossy: the kernel left out calls, of any process: " in left.output
    else:
        assert missed["lossy"] is None
    assert "TooManyInside" not in (missed["kept"] or {})
    assert (missed["kept"] is None) == (not _counts(left.release, 5, 12))


def _counts(release: str, *since: int) -> bool:
    return tuple(int(part) for part in release.split(".")[:2]) >= since
