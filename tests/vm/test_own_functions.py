# SPDX-License-Identifier: Apache-2.0
"""Probes of one's own on a function of the kernel, by each mechanism: N calls, N spans, with their arguments, their results, where they
came from, and those alone that the conditions want.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels, own, runs
from tests.support.otlp_json import ReceivedSpan
from tests.vm.guests import Visits, run, visited

CALLS = 101
CALLED = "ksys_fadvise64_64"  # (int fd, loff_t offset, loff_t len, int advice): nothing calls it but fadvise(2)
EINVAL, WILLNEED = 22, 3
_PLACE = ("code.function.name", "code.line.number", "kernelspan.code.missing")
KINDS = 9  # of them those beyond 5 are none: EINVAL
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.NEWEST]
HAS_MULTI = ("6.12", "newest")
PROGRAM = f"""
import os, sys, time

def advise(file, number):
    try:
        os.posix_fadvise(file, number * 4096, number, number % {KINDS})
    except OSError:
        pass

time.sleep(15)  # an emulated agent needs its time to find out what runs this
# A kernel that preempts leaves out what is called while bpf(2) of another task waits for that CPU (bpf_prog_active): the agent's does not.
for thread in os.listdir(f"/proc/{{os.getppid()}}/task"):
    os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(1))
with open(sys.argv[0]) as file:
    for number in range({CALLS}):
        advise(file.fileno(), number)
"""


def mechanisms(label: str) -> list[str]:
    """Those that a kernel has."""
    return ["Fentry", "KprobeMulti", "Kprobe"] if label in HAS_MULTI else ["Fentry", "Kprobe"]


def _probes(mechanism: str) -> list[dict[str, Any]]:
    of = {"kprobe": {"call": CALLED, "mechanism": mechanism}}
    args = [own.argument(1, "Int64"), own.argument(2, "Int64"), own.argument(3, "Int32")]
    failed = {"returns": [{"operator": "Equal", "values": [f"-{EINVAL}"]}]}
    wanted = {"args": [{"index": 3, "operator": "Equal", "values": [str(WILLNEED)]}]}
    returns, error = own.returned("Int32"), {"operator": "LessThan", "values": ["0"]}
    name = mechanism.lower()
    return [
        {"name": f"all-{name}", **of, "args": args, "returns": returns, "errorWhen": error},
        {"name": f"failed-{name}", **of, "args": args, "returns": returns, "match": [failed]},
        {"name": f"some-{name}", **of, "args": args, "mode": "Event", "match": [wanted]},
    ]


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left."""

    label: str
    output: str
    report: dict[str, Any]
    spans: list[ReceivedSpan]


def _visit(kernel: kernels.Kernel, folder: Path) -> Left:
    program, spans, report = (folder / name for name in ("program.py", "spans", "report"))
    program.write_text(PROGRAM)
    call = {"name": "call", "kprobe": {"call": "fadvise64", "syscall": True}, "args": [own.argument(1, "Int64")]}
    probes = [call, *(each for mechanism in mechanisms(kernel.label) for each in _probes(mechanism))]
    profile = runs.profile(folder, probes=probes, code={"functions": False})
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(profile), "--output", str(spans), "--report", str(report)]
    ran = run(kernel, [*command, "--", runs.SYSTEM_PYTHON, "-S", str(program)], folder)
    assert ran.status == 0, ran.output
    return Left(kernel.label, ran.output, json.loads(report.read_text()), runs.read_spans(spans))


VISITS = (Visits("left", _visit),)


@pytest.fixture(params=LABELS)
def left(request: pytest.FixtureRequest) -> Left:
    """What one of the kernels left."""
    return visited(request, VISITS[0], request.param)


def test_every_call_by_every_mechanism(left: Left) -> None:
    """Each once, with what was passed and what came of it; errors where there were some; the balance is exact."""
    runs.check_balance(left.report)
    assert left.report["skipped"] == 0
    assert {probe["name"]: probe["state"] for probe in left.report["probes"]} == dict.fromkeys(
        (probe["name"] for probe in left.report["probes"]), "Attached"
    ), left.output
    found, calls = own.by_probe(left), range(CALLS)
    results = {number: -EINVAL if number % KINDS > 5 else 0 for number in calls}
    every = Counter((number * 4096, number, number % KINDS, results[number]) for number in calls)
    assert Counter(own.values(found["call"], "a1")) == Counter(number * 4096 for number in calls)
    for mechanism in mechanisms(left.label):
        name = mechanism.lower()
        spans = found[f"all-{name}"]
        assert Counter(own.values(spans, "a1", "a2", "a3", "r")) == every
        assert {span.status for span in spans if span.attributes["r"]} == {"ERROR"}
        assert {span.status for span in spans if not span.attributes["r"]} == {"UNSET"}
        failed = Counter({key: count for key, count in every.items() if key[3]})
        assert Counter(own.values(found[f"failed-{name}"], "a1", "a2", "a3", "r")) == failed
        some = Counter(key[:3] for key in every if key[2] == WILLNEED)
        assert Counter(own.values(found[f"some-{name}"], "a1", "a2", "a3")) == some
    probes = {probe["name"]: probe["mechanism"] for probe in left.report["probes"] if probe["name"] != "call"}
    assert probes == {
        f"{kind}-{each.lower()}": each for kind in ("all", "failed", "some") for each in mechanisms(left.label)
    }


def test_where_they_came_from(left: Left) -> None:
    """All by the function that advised, at its line, in one trace of its thread; but for its beginning, of which that is said."""
    spans = [span for each in own.by_probe(left).values() for span in each]
    told = Counter(tuple(span.attributes.get(name) for name in _PLACE) for span in spans)
    assert told.keys() <= {("__main__.advise", 6, None), (None, None, "RuntimePending")}
    assert told["__main__.advise", 6, None] > len(spans) // 2
    assert len({span.trace_id for span in spans}) == 1
