# SPDX-License-Identifier: Apache-2.0
"""Whether what spans say is true: targets say of every operation where they did it, spans are held against that.

A target (targets/*.py after targets/said.py) notes its own stack on the very line of each operation, and gives the
operation a number: it reads so many bytes of an empty file of its own. So every span has its truth, by file and number.
Counted apart: what is wrong, and what is missing with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from kernelspan_agent.app import App
from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_api import semconv
from kernelspan_api.profile import load
from tests.support import pythons, runtimes_page
from tests.support.otlp_json import ReceivedSpan, spans_of
from tests.support.pythons import Interpreter, Program
from tests.support.require import require
from tests.support.together import PENDING, pending_late

TARGETS = Path(__file__).with_name("targets")
_NAMED = re.compile(r"/kernelspan-truth/([0-9a-f]{12}/[0-9]+)")  # an operation on a name: Named
_READ = re.compile(r".*\.([0-9a-f]{12})\.reads")
SECONDS = 120.0
AT_ONCE = 3
CUT_CHARS = 64  # of a name that is cut, at least so many are given
PROFILE = """
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: truth}
spec:
  podSelector: {}
  processSelector: {executables: ["/nothing"]}
  files: {operations: [Read, Stat]}
  code: {stackTrace: Attribute, maxDepth: 127}
  limits: {eventsPerSecond: 10000000, spansPerSecond: 10000000, cpuMillicores: 64000}
"""
CLI = "from kernelspan_agent.cli import main; main()"
Named = tuple[str, str, int]  # function, file, line
_FRAME = re.compile(r"(.*) \((.*):(\d+|\?)\)")


@dataclass(frozen=True, slots=True)
class Said:
    """What a target said of one operation. `frames`: (module, name, file, line), innermost first."""

    key: str  # token of its process and number
    context: str
    frames: tuple[tuple[str, str, str, int | None], ...]
    pid: int  # the process's own, in its PID namespace
    app: dict[str, bool]


@dataclass
class Verdict:
    """What came of holding spans against what was said."""

    said: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    late: list[str] = field(default_factory=list)  # pending after the runtime was known
    truncated: int = 0  # of the right ones: the outermost frames are missing, and the span says so
    no_module: int = 0  # frames whose function is right but bears no module

    @property
    def pending(self) -> int:
        """Operations from before the runtime was known."""
        return self.missing[PENDING]

    @property
    def missed(self) -> int:
        """Operations without frames, but for those that were pending."""
        return sum(self.missing.values()) - self.pending

    def __str__(self) -> str:
        return (
            f"{self.said} said, {self.right} right, {len(self.wrong)} wrong, missing {dict(self.missing)}, "
            f"{len(self.late)} of them late, truncated {self.truncated}, frames without module {self.no_module}; {self.wrong[:3]}"
        )


def wanted_pythons() -> list[str]:
    """Labels of the interpreters that tests run against: oldest, newest, one between, musl's; all for KERNELSPAN_MATRIX."""
    found = sorted(pythons.labels(), key=lambda label: int(label.split("-")[1].split(".")[1]))
    if os.environ.get("KERNELSPAN_MATRIX"):
        return found
    on_musl = [label for label in pythons.musl_labels() if not pythons.is_static(label)]
    found = [label for label in found if label not in pythons.musl_labels()]
    between = [label for label in found[1:-1] if label.startswith("system-")] or found[len(found) // 2 :]
    return [found[0], between[0], *on_musl, found[-1]]


def needed(label: str) -> Interpreter:
    """The interpreter with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return pythons.interpreter(label)
    except pythons.PythonsError as error:
        require("kernel", False, str(error))
        raise


def assert_true(verdict: Verdict, at_least: int, of: Outcome | None = None) -> None:
    """Nothing is wrong, next to nothing is missing, and enough was said for that to mean something.

    What was selected while it waited (`of`) is known before it goes on: nothing of it is pending. Of a command that is
    followed from its first system call the first operations may be, but not most, and none after the runtime was known.
    """
    where = (of.launch.label, of.accounting) if of else ""
    assert verdict.said >= at_least, (verdict, where)
    assert not verdict.wrong, (verdict, where)
    assert verdict.missed <= verdict.said / 1000, (verdict, where)
    assert "None" not in verdict.missing, verdict  # a reason for each
    assert not verdict.late, (verdict, where)
    assert verdict.pending <= (0 if of else verdict.said / 2), (verdict, where)


# --- running ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """A target to be run: a file of targets/, by which interpreter, with which arguments of its own."""

    python: Interpreter
    target: str
    arguments: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.python.label} {self.target} {' '.join(self.arguments)}".strip()


@dataclass
class Outcome:
    """What one launched target said, and the spans of all of them."""

    launch: Launch
    said: list[Said]
    spans: dict[str, list[ReceivedSpan]]
    pid: int
    accounting: dict[str, Any]  # of the agent, for all targets together


def text_of(target: str) -> str:
    """A target's whole program."""
    return (TARGETS / "said.py").read_text("utf-8") + (TARGETS / f"{target}.py").read_text("utf-8")


def traced_together(launches: Sequence[Launch], *, greenlets: bool = False, profile: str = PROFILE) -> list[Outcome]:
    """Runs the targets side by side, all traced from the moment they are ready, by one agent."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = [stack.enter_context(started(launch)) for launch in launches]
        for program, _ in programs:
            assert program.line() == "ready"
        with open_app(folder / "spans.jsonl", profile) as app:
            pids = [program.pid for program, _ in programs]
            for pid in pids:
                app.select(pid, "target")
            if greenlets:
                app.processes.look_for_flags()
            for program, _ in programs:
                program.go_on()
            run_until(app, lambda: all(program.started.poll() is not None for program, _ in programs))
            app.end(10.0)
            accounting = app.accounting().as_json()
        for launch, (program, _) in zip(launches, programs, strict=True):
            assert program.started.wait() == 0, launch.label
        spans = by_key(read_spans(folder / "spans.jsonl"))
        return [
            Outcome(launch, read_said(said), spans, pid, accounting)
            for launch, (_, said), pid in zip(launches, programs, pids, strict=True)
        ]


def traced(launches: Sequence[Launch]) -> Iterator[Outcome]:
    """Runs the targets three at a time: more of them on two cores leave the agent no time of its own."""
    for first in range(0, len(launches), AT_ONCE):
        yield from traced_together(launches[first : first + AT_ONCE])


@contextlib.contextmanager
def open_app(output: Path, profile: str = PROFILE, programs: Sequence[str] = ()) -> Iterator[App]:
    """An agent in this process that writes into a file. `programs`: files that are known to be traced."""
    loaded = load(profile.encode(), standalone=True)
    # Three interpreters at once on two cores leave the agent little time: nothing is to be lost for that.
    exporter, resource = JsonFileExporter(str(output)), ResourceSettings()
    app = App(loaded, exporter, os.environ, resource=resource, ring_bytes=1 << 26, programs=programs)
    with contextlib.closing(app), mock.patch("kernelspan_agent.intake.MAX_WAITING_OPERATIONS", 1 << 22):
        yield app


def run_until(app: App, done: Callable[[], bool]) -> None:
    """Lets the agent work until then. Raises AssertionError where it takes too long."""
    deadline = time.monotonic() + SECONDS

    def until() -> bool:
        assert time.monotonic() < deadline, "the targets do not end"
        return done()

    app.run(until)


@contextlib.contextmanager
def started(launch: Launch) -> Iterator[tuple[Program, Path]]:
    """A target at work, and where it says what it did."""
    with launch.python.script(text_of(launch.target), f"{launch.target}.py") as script:
        out = f"{script}.said"
        with launch.python.running(script, out, *launch.arguments) as program:
            yield program, host_path(launch.python, out)


def host_path(python: Interpreter, path: str) -> Path:
    """A file of the interpreter's root as seen from here."""
    return Path(path) if python.root is None else python.root / path.lstrip("/")


@dataclass(frozen=True)
class Ran:
    """What `kernelspan run` left: its exit status, its report, its spans, what was said."""

    status: int
    report: dict[str, Any]
    spans: list[ReceivedSpan]
    said: list[Said]
    errors: str


def run_command(
    command: Sequence[str], out: Path, *, profile: str = PROFILE, environ: dict[str, str] | None = None
) -> Ran:
    """`kernelspan run -- COMMAND`, which finds its spans where SPANS says; `out`: where its targets say what they did."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spans, report = folder / "spans.jsonl", folder / "report.json"
        (folder / "profile.yaml").write_text(profile)
        own = [sys.executable, "-c", CLI, "run", "-f", str(folder / "profile.yaml"), "-q"]
        own += ["--output", str(spans), "--report", str(report), "--", *command]
        env = {**os.environ, **(environ or {}), "SPANS": str(spans)}
        done = subprocess.run(own, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert report.exists(), done.stderr
        return Ran(done.returncode, json.loads(report.read_text()), read_spans(spans), read_said(out), done.stderr)


# --- reading ------------------------------------------------------------------------------------------------------


def read_said(out: Path) -> list[Said]:
    """What the target and its children left beside `out`."""
    found = []
    for path in sorted(out.parent.glob(f"{out.name}.*.json")):
        message = json.loads(path.read_text("utf-8", errors="surrogatepass"))
        stacks = [tuple(tuple(row) for row in rows) for rows in message["stacks"]]
        for number, context, stack in message["said"]:
            found.append(Said(f"{message['token']}/{number}", context, stacks[stack], message["pid"], message["app"]))
    return found


def read_spans(output: Path) -> list[ReceivedSpan]:
    """Every span of a file of OTLP/JSON lines."""
    with output.open(encoding="utf-8") as lines:
        return [span for line in lines for span in spans_of(json.loads(line))]


def by_key(spans: Iterable[ReceivedSpan]) -> dict[str, list[ReceivedSpan]]:
    """The targets' operations by their processes' tokens and their numbers."""
    found: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in spans:
        path = span.attributes.get(semconv.FILE_PATH)
        if not isinstance(path, str):
            continue
        if match := _READ.fullmatch(path):
            found[f"{match[1]}/{span.attributes.get(semconv.IO_REQUESTED)}"].append(span)
        elif match := _NAMED.fullmatch(path):
            found[match[1]].append(span)
    return found


# --- judging ------------------------------------------------------------------------------------------------------


def judge(
    said: Iterable[Said], spans: dict[str, list[ReceivedSpan]], *, allow_outer_missing: bool = False, label: str = ""
) -> Verdict:
    """Holds every operation that was said against its span. `allow_outer_missing`: of truncated stacks."""
    verdict, said = Verdict(), list(said)
    for each in said:
        verdict.said += 1
        found = spans.get(each.key, [])
        if len(found) != 1:
            if found:
                verdict.wrong.append(f"{each.key} has {len(found)} spans")
            else:
                verdict.missing["NotSeen"] += 1
            continue
        _judge_one(each, found[0], verdict, allow_outer_missing=allow_outer_missing)
    verdict.late = pending_late(said, spans)
    runtimes_page.note((spans.get(each.key, []) for each in said), verdict, label)
    return verdict


def _judge_one(said: Said, span: ReceivedSpan, verdict: Verdict, *, allow_outer_missing: bool) -> None:
    reason = str(span.attributes.get(semconv.CODE_MISSING, ""))
    text = span.attributes.get(semconv.CODE_STACKTRACE)
    if not isinstance(text, str):
        verdict.missing[reason or "None"] += 1
        return
    shown = parse_stack(text)
    expected = list(said.frames)
    if reason:
        verdict.truncated += 1
        if allow_outer_missing:
            expected = expected[: len(shown)]
    problem = _compare(expected, shown, verdict) or _compare_nearest(said, expected, span)
    if problem:
        verdict.wrong.append(f"{said.key} ({said.context}): {problem}")
    else:
        verdict.right += 1


def parse_stack(text: str) -> list[Named]:
    """The frames of `code.stacktrace`; line 0: not known."""
    return [_parse(line) for line in text.split("\n")]


def _parse(line: str) -> Named:
    match = _FRAME.fullmatch(line)
    assert match, line
    return match[1], match[2], 0 if match[3] == "?" else int(match[3])


def _compare(expected: Sequence[Any], shown: Sequence[Named], verdict: Verdict) -> str:
    if len(expected) != len(shown):
        return f"{len(shown)} frames, not {len(expected)}: {shown[:4]} {expected[:4]}"
    for (module, name, file, line), (function, shown_file, shown_line) in zip(expected, shown, strict=True):
        if not same_function(module, name, function):
            return f"{function} is not {module}.{name}"
        if module and same_text(name, function):
            verdict.no_module += 1
        if not same_text(file, shown_file) or (line or 0) != shown_line:
            return f"{function} at {shown_file}:{shown_line}, not {file}:{line}"
    return ""


def same_function(module: str, name: str, function: str) -> bool:
    """Whether this is the function's name: with its module or without one, whole or visibly cut."""
    if same_text(name, function):
        return True
    return any(
        same_text(module, function[:at]) and same_text(name, function[at + 1 :])
        for at, character in enumerate(function)
        if module and character == "."
    )


def same_text(whole: str, shown: str) -> bool:
    """Whether it is the text as shown: all of it, or visibly cut."""
    if printable(whole) == shown:
        return True
    cut = shown.removesuffix("…")
    return cut != shown and len(cut) >= CUT_CHARS and printable(whole).startswith(cut)


def _compare_nearest(said: Said, expected: Sequence[Any], span: ReceivedSpan) -> str:
    nearest = next((row for row in expected if said.app[row[2]]), None)
    function = span.attributes.get(semconv.CODE_FUNCTION_NAME)
    if nearest is None:
        return f"{function} is no App frame" if function is not None else ""
    module, name, file, line = nearest
    place = (span.attributes.get(semconv.CODE_FILE_PATH), span.attributes.get(semconv.CODE_LINE_NUMBER))
    if not same_function(module, name, str(function)) or not same_text(file, str(place[0])) or place[1] != line:
        return f"nearest App frame is {function} at {place}, not {nearest}"
    return ""
