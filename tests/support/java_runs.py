# SPDX-License-Identifier: Apache-2.0
"""Java targets at work under an agent; `truth` judges what comes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.runtimes.java.detect import NUMBER
from tests.support import javas, truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.pythons import Interpreter, Program
from tests.support.require import require
from tests.support.truth import Said

PROFILE = truth.PROFILE.replace("[Read, Stat]", "[Open]")
PACKAGE = "kernelspan.target"
SETTLE_SECONDS = 0.5  # the ring is looked at every 50 ms


@dataclass(frozen=True)
class Outcome:
    """What a target said, and what the spans say."""

    said: list[Said]
    spans: dict[str, list[ReceivedSpan]]
    all_spans: list[ReceivedSpan]
    accounting: dict[str, Any]
    frames: dict[str, int]  # of the stacks that arrived, or why not


def wanted_javas() -> list[str]:
    """Labels of the JVMs that tests run against: this machine's and the newest; all for KERNELSPAN_MATRIX."""
    found = javas.labels()
    return found if os.environ.get("KERNELSPAN_MATRIX") else ["bookworm-17", found[-2]]


def needed(label: str) -> Interpreter:
    """The JVM with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        javas.classes()
        return javas.interpreter(label)
    except javas.JavasError as error:
        require("kernel", False, str(error))
        raise


@contextlib.contextmanager
def folder_in(java: Interpreter) -> Iterator[tuple[Path, str]]:
    """A folder in its root with all targets' classes: as seen from here, and from there."""
    assert java.root is not None
    with tempfile.TemporaryDirectory(dir=java.root / "tmp") as made:
        shutil.copytree(javas.classes(), Path(made, "classes"))
        yield Path(made), f"/{Path(made).relative_to(java.root)}"


@contextlib.contextmanager
def started(
    java: Interpreter, target: str, *arguments: str, options: Sequence[str] = ()
) -> Iterator[tuple[Program, Path]]:
    """A target, ready; and where it says what it did."""
    with folder_in(java) as (folder, inside):
        command = [*options, "-cp", f"{inside}/classes", f"{PACKAGE}.{target}", f"{inside}/said", *arguments]
        with java.running(*command) as program:
            assert program.line() == "ready"
            yield program, folder / "said"


def traced(java: Interpreter, target: str, *arguments: str, options: Sequence[str] = ()) -> Outcome:
    """Runs a target, traced from the moment it is ready."""
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "spans.jsonl"
        program, out = stack.enter_context(started(java, target, *arguments, options=options))
        with truth.open_app(output, PROFILE) as app:
            app.select(program.pid, "target")
            wait_for_walker(app)
            run(app, program, out)
            app.end(10.0)
            accounting, frames = app.accounting().as_json(), dict(app.tables.stacks.frames)
        assert program.started.stdout is not None
        assert program.started.wait() == 0, program.started.stdout.read()
        spans = truth.read_spans(output)
        return Outcome(truth.read_said(out), truth.by_key(spans), spans, accounting, frames)


def run(app: App, program: Program, out: Path) -> None:
    """Lets a target do its work, and ends it when all that it did has been looked at."""
    program.go_on()
    truth.run_until(app, lambda: any(out.parent.glob(f"{out.name}.*.json")))
    end = time.monotonic() + SETTLE_SECONDS
    truth.run_until(app, lambda: time.monotonic() > end)
    program.go_on()
    truth.run_until(app, lambda: program.started.poll() is not None)


def wait_for_walker(app: App) -> None:
    """Until Java's walker is loaded: no session begins with it."""
    truth.run_until(app, lambda: app.session.walks(NUMBER))
    app.step(0.0)
