# SPDX-License-Identifier: Apache-2.0
"""An agent that gets no CPU for a while, as on a machine that others overload: what is told meanwhile does not fit and is
lost, the beginnings of processes with it. Those processes are not.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

from kernelspan_agent.intake import MAX_WAITING_OPERATIONS
from tests.support import runs
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import Run

COUNT = 50
MEMBERS = ("itself", "forked", "forked_later", "execed", "execed_later")


def run(folder: Path, storm: int, mebibytes: int) -> Run:
    """The program, whose agent sleeps from before its storm until its processes have begun."""
    here = folder / "here"
    here.mkdir()
    profile = runs.profile(folder, files={"operations": ["Stat"]}, code={"functions": True})
    command = (runs.SYSTEM_PYTHON, "-S", runs.PROGRAMS / "lost_processes.py", here, str(COUNT), str(storm))
    with runs.agent(folder, profile, *command, options=["--ring-mebibytes", str(mebibytes)]) as agent:
        agent.wait_until((here / "ready").exists, "the program runs")
        agent.process.send_signal(signal.SIGSTOP)
        (here / "go").touch()
        agent.wait_until((here / "begun").exists, "processes began")
        agent.process.send_signal(signal.SIGCONT)
        agent.wait_for_spans(1, lambda span: span.attributes.get("file.path") == "/mark/awake")
        (here / "work").touch()
        agent.wait_for_spans(COUNT * len(MEMBERS), lambda span: _who(span) in MEMBERS)
        (here / "end").touch()
        ran = agent.finish()
    assert ran.status == 0, ran.stderr
    return ran


def test_processes_that_begin_while_the_agent_sleeps(tmp_path: Path) -> None:
    """All that they do once it is awake is told, by the function that did it; of what was before it is counted what is missing."""
    ran = run(tmp_path, 20_000, 1)
    assert ran.balance["dropped"].keys() == {"RingFull"}
    found = {member: [span for span in ran.operations if _who(span) == member] for member in MEMBERS}
    assert {member: len(spans) for member, spans in found.items()} == dict.fromkeys(MEMBERS, COUNT)
    by_id = {span.span_id: span for span in ran.spans}
    looks = {member: [by_id[span.parent_span_id] for span in found[member]] for member in MEMBERS}
    callers = {member: Counter(by_id[look.parent_span_id].name for look in looks[member]) for member in MEMBERS}
    assert callers == {member: {f"__main__.{member}": COUNT} for member in MEMBERS}
    pids = {member: {span.resource["process.pid"] for span in spans} for member, spans in found.items()}
    assert [len(each) for each in pids.values()] == [1] * len(MEMBERS)
    assert len(set.union(*pids.values())) == len(MEMBERS)


def test_a_larger_ring_keeps_what_was_done_meanwhile(tmp_path: Path) -> None:
    """More than the agent's own queue takes: it stays in the ring until there is room."""
    storm = MAX_WAITING_OPERATIONS + 5_003
    ran = run(tmp_path, storm, 32)
    assert ran.balance["dropped"] == {}
    assert ran.balance["exported"] == len(ran.operations) > storm + COUNT * len(MEMBERS)


def _who(span: ReceivedSpan) -> str:
    """Whose mark it is."""
    return str(span.attributes.get("file.path", "")).removeprefix("/mark/").partition("/")[0]
