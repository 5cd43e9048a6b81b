# SPDX-License-Identifier: Apache-2.0
"""Detection, walk from outside, symbols, lines and task numbers against every CPython there is.

The truth is what each interpreter says about itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.python.layout import Types
from kernelspan_agent.runtimes.python.lines import line_of
from kernelspan_agent.runtimes.python.symbolise import CORRUPT, FREED, MAX_NAME_CHARS, REPLACED, UNREADABLE
from kernelspan_agent.runtimes.python.tasks import task_number
from tests.support import python_targets, pythons
from tests.support.pythons import Interpreter, Program
from tests.support.pywalk import walk_threads
from tests.support.require import require
from tests.support.truth import needed

Named = tuple[str, str, int]  # function, file, line

pytestmark = pytest.mark.root


@pytest.fixture(params=pythons.labels())
def python(request: pytest.FixtureRequest) -> Interpreter:
    """Each interpreter."""
    return needed(request.param)


@contextlib.contextmanager
def started(program: Program) -> Iterator[tuple[str, ProcessMemory]]:
    """Its first line and its memory, opened once it is the program and no longer what started it."""
    first = program.line()
    with ProcessMemory(open_process(program.pid)) as memory:
        yield first, memory


def detected(program: Program) -> registry.DetectedRuntime:
    found = registry.detect(open_process(program.pid))
    assert isinstance(found, registry.DetectedRuntime), found
    return found


def said(row: list[Any]) -> Named:
    """What a frame must be called, from what the program said about it."""
    module, name, file, line = row
    name = name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"
    return (f"{module}.{name}" if module else name, file, line)


def test_detects_the_version(python: Interpreter) -> None:
    """Implementation, version and layout are those of the running interpreter."""
    with (
        python.script("import platform; print(platform.python_version(), flush=True); input()") as script,
        python.running(script) as program,
    ):
        version = program.line()
        found = detected(program)
        assert found.attributes == {"process.runtime.name": "CPython", "process.runtime.version": version}
        assert found.layout["minor"][0] == python.minor == int(version.split(".")[1])
        assert found.layout["long_type"][0] != 0
        assert found.layout["unicode_type"][0] != 0


def test_names_parked_frames(python: Interpreter) -> None:
    """Every frame of every thread has the function, file and line that the program says, in each of its states."""
    with (
        python.script(python_targets.STACKS) as script,
        python.running(script) as program,
        started(program) as (first, memory),
    ):
        truth = dict([parse(first), parse(program.line())])
        program.parked(threads=2)
        found = detected(program)
        symboliser = registry.symboliser(found, memory)
        assert shown(symboliser, memory, found) == truth
        for _ in range(2):
            for _ in truth:
                program.go_on()
            key, frames = parse(program.line())
            program.parked()
            assert shown(symboliser, memory, found)[key] == frames
            truth = {key: frames}
        assert not symboliser.unresolved


def parse(line: str, *, modules: bool = True) -> tuple[int, list[Named]]:
    message = json.loads(line)
    return message["thread"], [said(row if modules else ["", *row[1:]]) for row in message["frames"]]


def shown(
    symboliser: registry.Symboliser, memory: ProcessMemory, found: registry.DetectedRuntime
) -> dict[int, list[Named]]:
    return {
        thread: [(frame.function, frame.file, frame.line) for frame in symboliser.frames(rows)]
        for thread, (rows, _) in walk_threads(memory, found).items()
    }


def test_reused_code_has_another_check(python: Interpreter) -> None:
    """Code made and dropped in a loop: a row kept from before is never given the name of what lies there now."""
    rounds = 40
    with (
        python.script(python_targets.DROPPED) as script,
        python.running(script, str(rounds)) as program,
        started(program) as (first, memory),
    ):
        message = first
        found = detected(program)
        kept: list[np.ndarray] = []
        truth: list[list[Named]] = []
        seen: Counter[int] = Counter()
        while message != "end":
            program.parked()
            ((rows, _),) = walk_threads(memory, found).values()
            rows = rows[:3]  # park, the function, its module: the program itself lies below
            kept.append(rows)
            truth.append(parse(message)[1])
            seen.update(rows["code"].tolist())
            fresh = registry.symboliser(found, memory).frames(np.concatenate(kept))
            for frame, expected in zip(fresh, [frame for frames in truth for frame in frames[:3]], strict=True):
                if frame.unresolved:
                    assert frame.unresolved in {FREED, REPLACED, CORRUPT, UNREADABLE}
                else:
                    assert (frame.file, frame.line) == expected[1:]
                    assert frame.function == (expected[0] if frame.module else frame.qualname)
            now = [(frame.function, frame.file, frame.line) for frame in fresh[-3:]]
            assert now == truth[-1][:3]
            program.go_on()
            message = program.line()
        assert len(truth) == 2 * rounds
        assert max(seen.values()) == 2 * rounds  # park's own code
        assert len(seen) < 1 + 4 * rounds  # addresses were used again: the test means something


# Of each version one build: how lines are written is the compiler's, the same wherever it is built.
VERSIONS = dict(reversed([(label.rpartition("-")[2].split(".")[1], label) for label in pythons.labels()]))


@pytest.mark.parametrize(
    "python", pythons.labels() if os.environ.get("KERNELSPAN_MATRIX") else list(VERSIONS.values()), indirect=True
)
def test_lines_of_the_standard_library(python: Interpreter) -> None:
    """Each instruction of thousands of functions has the line that the interpreter's own tables give."""
    with python.script(python_targets.LINES) as script, python.running(script) as program:
        functions = 0
        while (row := json.loads(program.line())) is not None:
            name, first, table, ranges = row
            data = bytes.fromhex(table)
            functions += 1
            for start, end, line in ranges:
                for offset in range(start, end, 2):
                    assert line_of(data, first, offset, python.minor) == line, (name, offset)
    assert functions > 300


def test_task_numbers(python: Interpreter) -> None:
    """1,000 asyncio tasks one after another have 1,000 numbers, each its own at every stop; other names have none."""
    count = 1000
    with (
        python.script(python_targets.TASKS) as script,
        python.running(script, str(count)) as program,
        started(program) as (first, memory),
    ):
        line = first
        found = detected(program)
        layout = found.layout[0]
        numbers, roots = set(), set()
        none = 0
        while line != "end":
            program.parked()
            ((rows, addresses),) = walk_threads(memory, found).values()
            generators = np.flatnonzero(rows["owner"] == layout["owner_generator"])
            last = int(generators[-1])
            outer = addresses[last + 1] if last + 1 < len(addresses) else 0
            number = task_number(memory, found.details.offsets, addresses[last], outer, found.details.types)
            assert number == int(line)
            none += not number
            numbers.add(number)
            roots.add(addresses[last])
            program.go_on()
            line = program.line()
        assert len(numbers - {0}) == count
        assert none == 6
        assert len(roots) < count  # without the number they could not be told apart


def test_deleted_executable(tmp_path: Path) -> None:
    """A program whose file was deleted, and whose name now leads to another file, is still what it runs."""
    require("kernel", os.geteuid() == 0, "needs root")
    system = [python for python in pythons.own_interpreters() if python.label.startswith("system")]
    require("kernel", system, "no system Python")
    copy = tmp_path / "python with\nnewline"
    copy.write_bytes(Path(system[0].program).read_bytes())
    copy.chmod(0o755)
    python = pythons.Interpreter("copy", system[0].minor, str(copy))
    with python.running("-c", "print(1, flush=True); input()") as program:
        program.line()
        copy.unlink()
        copy.write_text("not a program")
        found = detected(program)
        assert found.file == str(copy)
        with ProcessMemory(open_process(program.pid)) as memory:
            assert walk_threads(memory, found)


def test_stripped_of_every_symbol(tmp_path: Path) -> None:
    """A static program without one symbol is known by its section; its frames have all but modules, which only its types would tell."""
    label = next(label for label in pythons.musl_labels() if pythons.is_static(label) and not label.endswith("3.9"))
    original = needed(label)
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").symlink_to(Path(original.program).parents[1] / "lib")  # it looks beside itself
    python = replace(original, program=str(tmp_path / "bin" / Path(original.program).name))
    subprocess.run(["strip", "-o", python.program, original.program], check=True)
    with python.script(python_targets.STACKS) as script, python.running(script) as program:
        truth = dict([parse(program.line(), modules=False), parse(program.line(), modules=False)])
        program.parked(threads=2)
        found = detected(program)
        assert found.details.types == Types()
        with ProcessMemory(open_process(program.pid)) as memory:
            assert shown(registry.symboliser(found, memory), memory, found) == truth


def test_empty_stack_has_no_frames() -> None:
    """No rows, no frames."""
    with ProcessMemory(open_process(os.getpid())) as memory:
        found = registry.detect(open_process(os.getpid()))
        assert isinstance(found, registry.DetectedRuntime)
        assert registry.symboliser(found, memory).frames(np.zeros(0, FRAME)) == []
