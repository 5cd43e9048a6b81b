# SPDX-License-Identifier: Apache-2.0
"""Node.js targets at work under an agent; `truth` judges what comes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.runtimes.nodejs.detect import NUMBER
from kernelspan_api import semconv
from tests.support import nodes, runtimes_page, truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.pythons import Interpreter, Program
from tests.support.require import require
from tests.support.truth import Said

TARGETS = truth.TARGETS / "nodejs"
SECONDS_TO_LOOK = 0.3  # the targets' last stacks are named while they live


@dataclass(frozen=True)
class Outcome:
    """What a target said, and what the spans say."""

    said: list[Said]
    spans: dict[str, list[ReceivedSpan]]
    all_spans: list[ReceivedSpan]
    accounting: dict[str, Any]


def wanted_nodes() -> list[str]:
    """Labels of the versions that tests run against: oldest, newest, one between; all for KERNELSPAN_MATRIX."""
    found = nodes.labels()
    return found if os.environ.get("KERNELSPAN_MATRIX") else [found[0], found[2], found[-1]]


def needed(label: str) -> Interpreter:
    """The Node.js with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return nodes.interpreter(label)
    except nodes.NodesError as error:
        require("kernel", False, str(error))
        raise


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder with all targets."""
    with tempfile.TemporaryDirectory() as made:
        for file in TARGETS.iterdir():
            shutil.copy(file, made)
        yield Path(made)


@contextlib.contextmanager
def started(
    node: Interpreter, target: str, *arguments: str, options: Sequence[str] = ()
) -> Iterator[tuple[Program, Path]]:
    """A target, ready; and where it says what it did."""
    with folder() as made:
        command = [*options, f"{made}/{target}.js", f"{made}/said", *arguments]
        with node.running(*command) as program:
            assert program.line() == "ready"
            yield program, made / "said"


def traced(node: Interpreter, target: str, *arguments: str, options: Sequence[str] = (), at_once: int = 1) -> Outcome:
    """Runs so many of a target side by side, traced from the moment they are ready."""
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "spans.jsonl"
        running = [stack.enter_context(started(node, target, *arguments, options=options)) for _ in range(at_once)]
        with truth.open_app(output) as app:
            for program, _ in running:
                app.select(program.pid, "target")
            wait_for_walker(app)
            for program, _ in running:
                program.go_on()
            truth.run_until(app, lambda: all(_is_done(program, out) for program, out in running))
            deadline = time.monotonic() + SECONDS_TO_LOOK
            truth.run_until(app, lambda: time.monotonic() > deadline)
            for program, _ in running:
                program.go_on()
            truth.run_until(app, lambda: all(program.started.poll() is not None for program, _ in running))
            app.end(10.0)
            accounting = app.accounting().as_json()
        for program, _ in running:
            assert program.started.stdout is not None
            assert program.started.wait() == 0, program.started.stdout.read()
        spans = truth.read_spans(output)
        return Outcome(
            [each for _, out in running for each in truth.read_said(out)], truth.by_key(spans), spans, accounting
        )


def _is_done(program: Program, out: Path) -> bool:
    """Whether its main thread has said all, or it has ended."""
    return program.started.poll() is not None or Path(f"{out}.done").exists()


def wait_for_walker(app: App) -> None:
    """Until its walker is loaded: no session begins with it."""
    truth.run_until(app, lambda: app.session.walks(NUMBER))
    app.step(0.0)


@dataclass
class Judged:
    """What came of holding spans against what was said. `lineless`: right frames without a line."""

    said: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    frames: int = 0
    lineless: int = 0


def judge(outcome: Outcome) -> Judged:
    """Every frame's function and file must be what was said, and its line too, or absent."""
    found = Judged()
    for each in outcome.said:
        found.said += 1
        spans = outcome.spans.get(each.key, [])
        text = spans[0].attributes.get(semconv.CODE_STACKTRACE) if len(spans) == 1 else None
        if len(spans) > 1:
            found.wrong.append(f"{each.key} has {len(spans)} spans")
        elif not isinstance(text, str):
            found.missing[str(spans[0].attributes.get(semconv.CODE_MISSING)) if spans else "NotSeen"] += 1
        elif problem := _compare(each, truth.parse_stack(text), found):
            found.wrong.append(problem)
        else:
            found.right += 1
    runtimes_page.note((outcome.spans.get(each.key, []) for each in outcome.said), found)
    return found


def _compare(said: Said, shown: Sequence[truth.Named], found: Judged) -> str:
    expected = said.frames
    if len(expected) != len(shown):
        return f"{len(shown)} frames, not {len(expected)}: {shown[:5]} {expected[:5]}"
    for (_, name, file, line), (function, shown_file, shown_line) in zip(expected, shown, strict=True):
        found.frames += 1
        found.lineless += bool(line) and not shown_line
        # A name that is computed while the program runs is the object's, not the function's: the line tells the function.
        computed = name.startswith("[") and (function == "<anonymous>" or (line and shown_line == line))
        if not truth.same_text(name, function) and not computed:
            return f"{function} is not {name} ({file}:{line})"
        if not truth.same_text(file, shown_file) or shown_line not in (0, line or 0):
            return f"{function} at {shown_file}:{shown_line}, not {file}:{line}"
    return ""
