# SPDX-License-Identifier: Apache-2.0
"""The examples whose probes are functions of the kernel, on kernels that have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.kernel.test_examples_probes import EXAMPLES, SENDS
from tests.support import kernels, runs, vm
from tests.support.require import require
from tests.vm.tracing import ROOT

SECONDS = 600.0  # emulated, and it compiles
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.OLDEST, kernels.NEWEST]


@pytest.mark.parametrize("label", LABELS)
def test_large_database_sends(tmp_path: Path, label: str) -> None:
    """More than 64 KiB to a database's port, by the function that sent it; other ports and smaller ones not."""
    try:
        kernel = kernels.kernel(label)
    except kernels.KernelsError as error:
        require("vm", False, str(error))
        raise
    program, spans, report = (tmp_path / name for name in ("program.py", "spans", "report"))
    program.write_text(SENDS)
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(EXAMPLES["large-database-sends"]), "--output", str(spans)]
    command += ["--report", str(report), "--", runs.SYSTEM_PYTHON, "-S", str(program)]
    ran = vm.run(kernel, command, seconds=SECONDS, shared=tmp_path, folder=ROOT)
    assert ran.status == 0, ran.output
    found = json.loads(report.read_text())
    runs.check_balance(found)
    (probe,) = found["probes"]
    assert (probe["state"], probe["mechanism"]) == ("Attached", "Fentry"), ran.output
    sent = [span for span in runs.read_spans(spans) if "send.requested" in span.attributes]
    assert sorted(int(str(span.attributes["send.requested"])) for span in sent) == [65537, 100000]
    assert {span.attributes["network.peer.port"] for span in sent} == {5432}
    assert {span.attributes["code.function.name"] for span in sent} == {"__main__.send"}
    assert sum(each["count"] for each in probe["durations"]) == 2
