# SPDX-License-Identifier: Apache-2.0
"""What spans say of Python code is what the program itself said: function, file and line, of every frame.

Several interpreters run at once under one agent, each with threads, event loops and every kind of frame.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.support import truth
from tests.support.truth import Launch, assert_true, judge, needed, traced, wanted_pythons

pytestmark = pytest.mark.root
DEEPER_THAN_A_STACK = 4  # of the depths in targets/kinds.py


def test_every_frame_is_true() -> None:
    """Threads, coroutines, recursion, call-backs, made code, odd names: thousands of operations, none of them wrong."""
    for outcome in traced([Launch(needed(label), "kinds", ("4",)) for label in wanted_pythons()]):
        verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True, label=outcome.launch.python.label)
        assert_true(verdict, 2000, outcome)
        assert verdict.truncated == DEEPER_THAN_A_STACK, verdict
        assert not verdict.no_module, verdict
        assert outcome.accounting["unaccounted"] == 0


@pytest.mark.parametrize("label", wanted_pythons())
def test_however_it_is_started(label: str) -> None:
    """`python -m package`, a folder, a zip archive; from the first system call, with frames of frozen modules."""
    python = needed(label)
    with python.script("", "empty.py") as empty:
        folder = truth.host_path(python, empty).parent
        inside = Path(empty).parent
        text = truth.text_of("ways")
        for package in (folder / "package", folder / "plain"):
            package.mkdir()
            (package / "__main__.py").write_text(text, encoding="utf-8")
        (folder / "package" / "__init__.py").touch()
        with zipfile.ZipFile(folder / "archive.pyz", "w") as archive:
            archive.writestr("__main__.py", text)
        ways = [
            [
                "-c",
                f"import sys, runpy; sys.path.insert(0, {str(inside)!r}); runpy.run_module('package', alter_sys=True)",
            ],
            [str(inside / "plain")],
            [str(inside / "archive.pyz")],
        ]
        for number, way in enumerate(ways):
            out = folder / f"{number}.said"
            ran = truth.run_command(python.command(*way), out, environ={"KERNELSPAN_SAID": str(inside / out.name)})
            assert ran.status == 0, ran.errors
            verdict = judge(ran.said, truth.by_key(ran.spans))
            assert_true(verdict, 10)
            assert verdict.right == verdict.said, verdict
            assert any("<frozen importlib._bootstrap>" in row[2] for each in ran.said for row in each.frames)


def test_a_function_of_thousands_of_lines(tmp_path: Path) -> None:
    """A line table beyond what the kernel copies is read from the process while it lives."""
    with truth.started(Launch(needed(wanted_pythons()[0]), "giant")) as (program, out):
        assert program.line() == "ready"
        with truth.open_app(tmp_path / "spans.jsonl") as app:
            app.select(program.pid, "target")
            program.go_on()
            truth.run_until(app, lambda: bool(truth.read_said(out)))
            program.go_on()
            app.end(10.0)
        verdict = judge(truth.read_said(out), truth.by_key(truth.read_spans(tmp_path / "spans.jsonl")))
    assert_true(verdict, 50)
