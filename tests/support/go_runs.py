# SPDX-License-Identifier: Apache-2.0
"""Go targets at work under an agent; `truth` judges what comes of it.

A target says where it called a read: the frames of the standard library further in are not among what it says, and are taken
off what is held against it. They are returned apart.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.runtimes.go.detect import NUMBER
from kernelspan_api import semconv
from tests.support import truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.truth import Said

# What Go does below syscall.Read and (*os.File).Read; cgo's own, below a function that calls C.
INSIDE = (
    "syscall.",
    "internal/runtime/syscall",
    "runtime/internal/syscall",
    "internal/poll.",
    "os.(*File).",
    "runtime.cgocall",
    "main._Cfunc_",
)


@dataclass(frozen=True)
class Outcome:
    """What a target said, what the spans say of it, and the frames inside of the calls that it spoke of."""

    said: list[Said]
    spans: dict[str, list[ReceivedSpan]]
    inside: Counter[tuple[str, ...]]
    accounting: dict[str, Any]


@contextlib.contextmanager
def started(program: Path, out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A target, ready; it goes on when a line is written to it."""
    command = [str(program), str(out), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def traced(programs: Sequence[Path], *arguments: str) -> list[Outcome]:
    """Runs the programs side by side, all traced from the moment they are ready."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outs = [folder / f"said{index}" for index in range(len(programs))]
        running = [
            stack.enter_context(started(program, out, *arguments)) for program, out in zip(programs, outs, strict=True)
        ]
        with truth.open_app(folder / "spans.jsonl") as app:
            for each in running:
                app.select(each.pid, "target")
            wait_for_walker(app)
            for each in running:
                assert each.stdin is not None
                each.stdin.write("\n")
                each.stdin.flush()
            truth.run_until(app, lambda: all(each.poll() is not None for each in running))
            app.end(10.0)
            accounting = app.accounting().as_json()
        assert [each.returncode for each in running] == [0] * len(running)
        spans = truth.by_key(truth.read_spans(folder / "spans.jsonl"))
        return [outcome(truth.read_said(out), spans, accounting) for out in outs]


def wait_for_walker(app: App) -> None:
    """Until Go's walker is loaded: no session begins with it."""
    truth.run_until(app, lambda: app.session.walks(NUMBER))
    app.step(0.0)


def outcome(said: list[Said], spans: dict[str, list[ReceivedSpan]], accounting: dict[str, Any]) -> Outcome:
    """What was said, held against its spans."""
    inside: Counter[tuple[str, ...]] = Counter()
    found = {}
    for each in said:
        found[each.key] = [_cut(span, inside) for span in spans.get(each.key, [])]
    return Outcome(said, found, inside, accounting)


def _cut(span: ReceivedSpan, inside: Counter[tuple[str, ...]]) -> ReceivedSpan:
    text = span.attributes.get(semconv.CODE_STACKTRACE)
    if not isinstance(text, str):
        return span
    lines = text.split("\n")
    count = next((at for at, line in enumerate(lines) if not line.startswith(INSIDE)), len(lines) - 1)
    inside[tuple(line.partition(" ")[0] for line in lines[:count])] += 1
    return replace(span, attributes={**span.attributes, semconv.CODE_STACKTRACE: "\n".join(lines[count:])})
