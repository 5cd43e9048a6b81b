# SPDX-License-Identifier: Apache-2.0
"""Returns that a kretprobe loses, where many threads are in one function at once: no wrong span, none unaccounted for, and
told of where the kernel counts them. fexit has room for all; what the kernel leaves out of it, as another thread on that CPU
was in the program (Recursion), is no more than it says.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels, runs, vm
from tests.support.require import require
from tests.vm.tracing import ROOT

SECONDS = 600.0  # emulated, and it compiles
SLEEPERS = 103
FUNCTION = "do_nanosleep"
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.NEWEST]  # which tells
PROBES: list[dict[str, Any]] = [
    {"name": "kept", "kprobe": {"call": FUNCTION, "mechanism": "Fentry"}},
    {"name": "lossy", "kprobe": {"call": FUNCTION, "mechanism": "Kprobe"}},
]


@pytest.mark.parametrize("label", LABELS)
def test_returns_that_are_lost(tmp_path: Path, label: str) -> None:
    """What has no span is a call whose return was never seen."""
    try:
        kernel = kernels.kernel(label)
    except kernels.KernelsError as error:
        require("vm", False, str(error))
        raise
    spans, report = (tmp_path / name for name in ("spans", "report"))
    profile = runs.profile(tmp_path, probes=PROBES, code={"stacks": "None"})
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(profile), "--output", str(spans), "--report", str(report)]
    command += ["--", runs.SYSTEM_PYTHON, "-S", "-m", "tests.vm.sleepers", str(SLEEPERS)]
    ran = vm.run(kernel, command, seconds=SECONDS, shared=tmp_path, folder=ROOT)
    assert ran.status == 0, ran.output
    found = json.loads(report.read_text())
    runs.check_balance(found)
    seen = Counter(
        span.attributes["kernelspan.probe.name"] for span in runs.read_spans(spans) if span.name in ("kept", "lossy")
    )
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
    if _counts(kernel.release, 6, 7):
        assert (
            missed["lossy"]["TooManyInside"] + missed["lossy"].get("Recursion", 0) >= lost
        )  # the agent sleeps as well
        assert "probe lossy: the kernel left out calls, of any process: " in ran.output
    else:
        assert missed["lossy"] is None
    assert "TooManyInside" not in (missed["kept"] or {})
    assert (missed["kept"] is None) == (not _counts(kernel.release, 5, 12))


def _counts(release: str, *since: int) -> bool:
    return tuple(int(part) for part in release.split(".")[:2]) >= since
