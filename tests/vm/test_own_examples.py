# SPDX-License-Identifier: Apache-2.0
"""The examples whose probes are functions of the kernel, on kernels that have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_examples_probes import EXAMPLES, SENDS
from tests.support import kernels, runs
from tests.support.otlp_json import ReceivedSpan
from tests.vm.guests import Visits, run, visited

NAME = "large-database-sends"


@dataclass(frozen=True, slots=True)
class Left:
    """What a run of the example left."""

    output: str
    report: dict[str, Any]
    spans: list[ReceivedSpan]


def _visit(kernel: kernels.Kernel, folder: Path) -> Left:
    program, spans, report = (folder / name for name in ("program.py", "spans", "report"))
    program.write_text(SENDS)
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(EXAMPLES[NAME]), "--output", str(spans)]
    command += ["--report", str(report), "--", runs.SYSTEM_PYTHON, "-S", str(program)]
    ran = run(kernel, command, folder)
    assert ran.status == 0, ran.output
    return Left(ran.output, json.loads(report.read_text()), runs.read_spans(spans))


VISITS = (Visits("left", _visit),)


@pytest.fixture(params=kernels.wanted_labels())
def left(request: pytest.FixtureRequest) -> Left:
    """What it left on one of the kernels."""
    return visited(request, VISITS[0], request.param)


def test_large_database_sends(left: Left) -> None:
    """More than 64 KiB to a database's port, by the function that sent it; other ports and smaller ones not."""
    runs.check_balance(left.report)
    (probe,) = left.report["probes"]
    assert (probe["state"], probe["mechanism"]) == ("Attached", "Fentry"), left.output
    sent = [span for span in left.spans if "send.requested" in span.attributes]
    assert sorted(int(str(span.attributes["send.requested"])) for span in sent) == [65537, 100000]
    assert {span.attributes["network.peer.port"] for span in sent} == {5432}
    assert {span.attributes["code.function.name"] for span in sent} == {"__main__.send"}
    assert sum(each["count"] for each in probe["durations"]) == 2
