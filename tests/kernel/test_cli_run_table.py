# SPDX-License-Identifier: Apache-2.0
"""The table that `kernelspan run` ends with: each of its figures is there, is the report's, and they add up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support import runs
from tests.support.runs import SYSTEM_PYTHON
from tests.unit.export.servers import grpc_server, partial_success

CALLS, LEFT_OUT, REJECTED = 2_003, 307, 7
PROGRAM = f"""
import os
def look(path, times):
    for _ in range(times): os.stat(path)
look("/proc/self", {CALLS})
look("/", {LEFT_OUT})
"""
# By trace half of them, of those some are beyond the rate, of those the collector leaves some out.
SPEC = {
    "podSelector": {"matchLabels": {"app": "shop"}},
    "nodeSelector": {"zone": "a"},
    "files": {"operations": ["Stat"], "paths": ["/proc/self"]},
    "code": {"functions": False},
    "correlation": {"orphans": "Root"},
    "sampling": {"percent": 50},
    "limits": {**runs.UNLIMITED, "spansPerSecond": 50},
}
FATES = ("exported", "filtered", "sampled out", "rate limited", "in flight", "dropped")
_COST = r"agent (\d+\.\d\d) s of CPU, ([\d,]+) millicores; programs in the kernel (not measured|([\d,]+) millicores \(sampled (\d+\.\d) s\))"


def rows(stderr: str) -> dict[str, str]:
    """The table's lines by their labels."""
    found = re.findall(r"^ *(\S.*?) {2,}(.*)$", stderr[stderr.index("\noperations\n") :], re.MULTILINE)
    assert len(dict(found)) == len(found), stderr
    return dict(found)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def parts(text: str) -> dict[str, int]:
    """`Complete 225, None 28`."""
    return {name: number(count) for name, count in re.findall(r"(\S.*?) ([\d,]+\d|\d)(?:, |$)", text)}


def test_every_figure_is_there_and_they_add_up(tmp_path: Path) -> None:
    """Seen is the sum of the others, none of which is 0 here but what is in flight; drops and stacks by reason; the time spent."""
    with grpc_server([lambda _: partial_success(REJECTED, "seven too many")]) as (port, received):
        ran = runs.run(
            tmp_path, runs.profile(tmp_path, **SPEC), SYSTEM_PYTHON, "-S", "-c", PROGRAM,
            options=["--otlp", f"127.0.0.1:{port}"], output=False,
        )  # fmt: skip
    assert ran.status == 0, ran.stderr
    told, balance = rows(ran.stderr), ran.balance
    counts = {label: number(told[label].split()[0]) for label in ("seen", *FATES)}
    assert counts["seen"] == sum(counts[label] for label in FATES) >= CALLS + LEFT_OUT
    assert [label for label, count in counts.items() if not count] == ["in flight"], ran.stderr
    assert counts["filtered"] >= LEFT_OUT
    assert counts["seen"] - counts["filtered"] == CALLS
    names = {"sampled out": "sampledOut", "rate limited": "rateLimited", "in flight": "inFlight"}
    fates = ("seen", *FATES[:-1])
    assert {label: counts[label] for label in fates} == {label: balance[names.get(label, label)] for label in fates}
    dropped = re.fullmatch(r"([\d,]+) {3}(.*)", told["dropped"])
    assert dropped
    assert parts(dropped[2]) == balance["dropped"] == {"ExportFailed": number(dropped[1])}
    assert number(dropped[1]) == min(REJECTED, received.payloads[0].count(b"file.stat"))
    assert parts(told["stacks"]) == {state: count for state, count in ran.report["stacks"].items() if count}
    assert parts(told["stacks"])["Complete"] >= CALLS
    assert parts(told["runtimes"]) == ran.report["runtimes"]
    assert parts(f"exported {told['spans'].replace('   dropped ', ', ')}") == {
        "exported": counts["exported"], **ran.report["spans"]["dropped"]
    }  # fmt: skip
    _assert_cost(told["time spent"], ran.report["cost"])
    assert "seven too many" in told["last error"]
    ignored = [line for line in ran.stderr.splitlines() if "is for Kubernetes" in line]
    assert ignored == [
        f"kernelspan: {field} is for Kubernetes and is ignored here"
        for field in ("spec.podSelector", "spec.nodeSelector")
    ]


def _assert_cost(told: str, cost: dict[str, Any]) -> None:
    """The agent's CPU time, and what its programs cost in the kernel, which needs a while to be measured."""
    found = re.fullmatch(_COST, told)
    assert found, told
    assert float(found[1]) == round(cost["agentCpuSeconds"], 2) > 0
    assert number(found[2]) == cost["agentMillicores"]
    assert (found[3] == "not measured") == (cost["programsMillicores"] is None)
    if found[4]:
        assert (number(found[4]), float(found[5])) == (cost["programsMillicores"], round(cost["sampledSeconds"], 1))


def test_a_quiet_run_has_no_table(tmp_path: Path) -> None:
    """`-q`; what is wrong with the profile's fields is said all the same."""
    spec = runs.profile(tmp_path, podSelector={}, files={"operations": ["Stat"]})
    ran = runs.run(tmp_path, spec, "/bin/true", options=["-q"])
    assert (ran.status, ran.stderr) == (0, "kernelspan: spec.podSelector is for Kubernetes and is ignored here\n")
