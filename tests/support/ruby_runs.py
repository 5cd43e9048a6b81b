# SPDX-License-Identifier: Apache-2.0
"""Ruby targets at work under an agent, and whether what came of it is what they said.

A row of a target's stack is [whose, label, file, line]; see targets/ruby/said.rb. Ruby before 3.4 says no class in a label, and
from then on no `rescue in`: what both say must be so, what only the spans say must be the method that stands there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.runtimes.ruby.detect import NUMBER
from kernelspan_api import semconv
from tests.support import rubies, runtimes_page, truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.pythons import Interpreter, Program
from tests.support.require import require
from tests.support.together import PENDING

TARGETS = truth.TARGETS / "ruby"
_WITHIN = re.compile(r"(?:(?:block(?: \(\d+ levels\))?|rescue|ensure) in )+")
_HANDLING = re.compile(r"(?:rescue|ensure) in ")
_LIBRARY = re.compile(r".*\.so[.\d]*|.*/usr/bin/ruby")
Row = tuple[list[str], str, str, int | None]


@dataclass
class Verdict:
    """What came of holding spans against what was said."""

    said: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    frames: int = 0
    bare: Counter[str] = field(default_factory=Counter)  # frames of a method whose class is not told, by their names

    @property
    def missed(self) -> int:
        """Operations without frames, but for those from before Ruby was recognised."""
        return sum(self.missing.values()) - self.missing[PENDING]

    def __str__(self) -> str:
        return (
            f"{self.said} said, {self.right} right, {len(self.wrong)} wrong, missing {dict(self.missing)}, truncated "
            f"{self.truncated}, {self.frames} frames, without class {dict(self.bare)}; {self.wrong[:3]}"
        )


@dataclass(frozen=True)
class Outcome:
    """What a target said, and what the spans say."""

    said: list[tuple[str, str, list[Row]]]  # key, context, rows
    spans: dict[str, list[ReceivedSpan]]
    all_spans: list[ReceivedSpan]
    accounting: dict[str, Any]
    descriptions: set[str]
    label: str  # the interpreter's


def wanted_rubies() -> list[str]:
    """Labels of the Rubies that tests run against; for KERNELSPAN_MATRIX also of those that are built for it."""
    return rubies.labels() + (rubies.built_labels() if os.environ.get("KERNELSPAN_MATRIX") else [])


def needed(label: str) -> Interpreter:
    """The Ruby with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return rubies.interpreter(label)
    except rubies.RubiesError as error:
        require("kernel", False, str(error))
        raise


@contextlib.contextmanager
def folder_in(ruby: Interpreter) -> Iterator[tuple[Path, str]]:
    """A folder in its root with all targets: as seen from here, and from there."""
    assert ruby.root is not None
    with tempfile.TemporaryDirectory(dir=ruby.root / "tmp") as made:
        for file in (*TARGETS.glob("*.rb"), *TARGETS.glob("*.ru")):
            shutil.copy(file, made)
        yield Path(made), f"/{Path(made).relative_to(ruby.root)}"


@contextlib.contextmanager
def started(
    ruby: Interpreter, target: str, *arguments: str, options: Sequence[str] = ()
) -> Iterator[tuple[Program, Path]]:
    """A target, ready; and where it says what it did."""
    with folder_in(ruby) as (folder, inside):
        command = ["-W0", *options, f"{inside}/{target}.rb", f"{inside}/said", *arguments]
        with ruby.running(*command) as program:
            assert program.line() == "ready"
            yield program, folder / "said"


def traced(runs: Sequence[tuple[Interpreter, Sequence[str]]], *, options: Sequence[str] = ()) -> list[Outcome]:
    """Runs targets side by side, each (Ruby, target and arguments), traced from the moment they are ready."""
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "spans.jsonl"
        running = [stack.enter_context(started(ruby, *what, options=options)) for ruby, what in runs]
        with truth.open_app(output) as app:
            for program, _ in running:
                app.select(program.pid, "target")
            wait_for_walker(app)
            for program, _ in running:
                program.go_on()
            truth.run_until(app, lambda: all(program.started.poll() is not None for program, _ in running))
            app.end(10.0)
            accounting = app.accounting().as_json()
        for program, _ in running:
            assert program.started.wait() == 0
        spans = truth.read_spans(output)
        found = []
        for (ruby, _), (_, out) in zip(runs, running, strict=True):
            said, descriptions = read_said(out)
            found.append(Outcome(said, truth.by_key(spans), spans, accounting, descriptions, ruby.label))
        return found


def wait_for_walker(app: App) -> None:
    """Until Ruby's walker is loaded: no session begins with it."""
    truth.run_until(app, lambda: app.session.walks(NUMBER))
    app.step(0.0)


def read_said(out: Path) -> tuple[list[tuple[str, str, list[Row]]], set[str]]:
    """What the target and its children left beside `out`; what their Rubies say they are."""
    said, descriptions = [], set()
    for path in sorted(out.parent.glob(f"{out.name}.*.json")):
        message = json.loads(path.read_text("utf-8"))
        descriptions.add(message["description"])
        for number, context, stack in message["said"]:
            said.append((f"{message['token']}/{number}", context, [tuple(row) for row in message["stacks"][stack]]))
    return said, descriptions


# --- judging ------------------------------------------------------------------------------------------------------


def judge(said: Sequence[tuple[str, str, list[Row]]], spans: dict[str, list[ReceivedSpan]], label: str = "") -> Verdict:
    """Holds every operation that was said against its span. `label`: the interpreter's."""
    verdict = Verdict()
    for key, _, rows in said:
        verdict.said += 1
        found = spans.get(key, [])
        if len(found) != 1:
            if found:
                verdict.wrong.append(f"{key} has {len(found)} spans")
            else:
                verdict.missing["NotSeen"] += 1
            continue
        problem = _judge_one(rows, found[0], verdict)
        if problem:
            verdict.wrong.append(f"{key}: {problem}")
    runtimes_page.note((spans.get(key, []) for key, _, _ in said), verdict, label)
    return verdict


def _judge_one(rows: list[Row], span: ReceivedSpan, verdict: Verdict) -> str:
    reason = str(span.attributes.get(semconv.CODE_MISSING, ""))
    text = span.attributes.get(semconv.CODE_STACKTRACE)
    if not isinstance(text, str):
        verdict.missing[reason or "None"] += 1
        return ""
    shown = truth.parse_stack(text)
    if reason:
        verdict.truncated += 1
        rows = rows[: len(shown)]
    if len(rows) != len(shown):
        return f"{len(shown)} frames, not {len(rows)}: {shown[:5]} {rows[:5]}"
    for row, frame in zip(rows, shown, strict=True):
        problem = _compare(row, frame, verdict)
        if problem:
            return problem
    verdict.right += 1
    verdict.frames += len(rows)
    return ""


def _compare(row: Row, frame: truth.Named, verdict: Verdict) -> str:
    whose, label, file, line = row
    function, shown_file, shown_line = frame
    if not file:
        if not (_LIBRARY.fullmatch(shown_file) and not shown_line) and not shown_file.startswith("<internal:"):
            return f"{function} at {shown_file}:{shown_line} is no C function"
    elif not truth.same_text(file, shown_file) or (line or 0) != shown_line:
        return f"{function} at {shown_file}:{shown_line}, not {file}:{line}"
    return "" if _same_function(whose, label, function, verdict) else f"{function} is not {label} of {whose}"


def _same_function(whose: list[str], label: str, function: str, verdict: Verdict) -> bool:
    """Whether it is what the label says, with the right class or none."""
    said, shown = (_HANDLING.sub("", each) for each in (label, function))
    within = _WITHIN.match(said)
    at = within.end() if within else 0
    names = {said, *(f"{said[:at]}{name}" for name in whose)}
    if bare := re.fullmatch(r"[A-Z].*[#.]([^#.]+)", said[at:]):
        # Since 3.4: of a block that is a method's body Ruby gives the class of that to the method around.
        names.add(f"{said[:at]}{bare[1]}")
    if not any(truth.same_text(name, shown) for name in names):
        return False
    if whose and not any(truth.same_text(f"{said[:at]}{name}", shown) for name in whose):
        verdict.bare[shown] += 1
    return True
