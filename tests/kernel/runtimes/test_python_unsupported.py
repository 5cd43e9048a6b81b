# SPDX-License-Identifier: Apache-2.0
"""Pythons that cannot be walked, and programs that claim to be one: every operation is there, no function is claimed,
and it is said why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kernelspan_agent.process import elf
from kernelspan_agent.runtimes.python import debug_offsets
from kernelspan_agent.runtimes.python.build import RUNTIME_SYMBOL, VERSION_SYMBOL
from kernelspan_agent.runtimes.python.versions import BY_MINOR
from tests.support import pythons, runs
from tests.support.generators import compiled
from tests.support.require import require
from tests.support.truth import needed, wanted_pythons

pytestmark = pytest.mark.root
STACKS = {"files": {}, "code": {"functions": False}}
COUNT = 101
FIRST_WITH_VERSION = 11  # the symbol Py_Version
FIRST_THAT_SAYS, FLAG_AT = 13, 16  # _Py_DebugOffsets.free_threaded: the third word of _PyRuntime
STATS = f"import os, time\nfor _ in range({COUNT}): os.stat('/dev'); time.sleep(0.002)\n"  # longer than the first look takes
WAITS = "import sys\nsys.stdout.write('go\\n')\nsys.stdout.flush()\nsys.stdin.read()\n"
_ELSEWHERE = sorted(  # no Debian suite has them
    path
    for pattern in ("3.[0-7].*/bin/python", "pypy*/bin/pypy3", "3.*t/bin/python")
    for path in pythons._pyenv_versions().glob(pattern)
)


def _label(program: str | Path) -> str:
    return program if isinstance(program, str) else program.parts[-3]


def other(name: str) -> list[str]:
    """How to run a Python of tests.support.pythons.OTHERS."""
    try:
        return pythons.other_command(name)
    except pythons.PythonsError as error:
        require("kernel", False, str(error))
        raise


def assert_not_walked(folder: Path, command: list[str], name: str, version: str) -> None:
    """Its operations are there without functions, with the reason; its resource says what it is."""
    ran = runs.run(folder, runs.profile(folder, **STACKS), *command, "-c", STATS)
    stats = [span for span in ran.operations if span.attributes.get("file.path") == "/dev"]
    assert (ran.status, len(stats)) == (0, COUNT), ran.stderr
    assert not any("code.function.name" in span.attributes for span in ran.operations)
    reasons = Counter(span.attributes.get("kernelspan.code.missing") for span in stats)
    assert set(reasons) <= {"RuntimeUnsupported", "RuntimePending"}
    assert reasons["RuntimeUnsupported"] > 0
    resource = stats[-1].resource
    assert resource["process.runtime.name"] == name
    assert str(resource.get("process.runtime.version", "")).startswith(version)


def assert_explained(command: list[str], name: str, version: str, words: str) -> None:
    """`explain` says of it, while it waits, what it is and why that is not walked; exit status 3."""
    with subprocess.Popen([*command, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"go\n"
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        pid = children[0] if command[0] == "unshare" else str(started.pid)
        done = subprocess.run(
            [runs.KERNELSPAN, "explain", "--json", "--pid", pid],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        started.kill()
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)["unsupported"]
    assert (found["name"], found["reason"]) == (name, "RuntimeUnsupported")
    assert found["version"].startswith(version)
    assert words in found["message"]


@pytest.mark.parametrize(
    "program", [*(name for names in pythons.OTHERS.values() for name in names), *_ELSEWHERE], ids=_label
)
def test_not_walked(tmp_path: Path, program: str | Path) -> None:
    """Debian's own, in a PID namespace and root of theirs, and those of pyenv's that are too old, PyPy or free-threaded."""
    label = _label(program)
    if label.startswith("pypy"):
        what = ("PyPy", "", "PyPy keeps its frames otherwise")
    elif label.endswith("t"):
        what = ("CPython", ".".join(label.split(".")[:2]), "free-threaded")
    else:
        what = ("CPython", ".".join(label.removeprefix("python").split(".")[:2]), "older than 3.8")
    command = other(program) if isinstance(program, str) else [str(program)]
    assert_explained(command, *what)
    assert_not_walked(tmp_path, command, *what[:2])


def test_free_threaded(tmp_path: Path) -> None:
    """A build that says of itself, where debuggers look, that it has no GIL."""
    label = wanted_pythons()[-1]
    require("kernel", int(label.rpartition(".")[2]) >= FIRST_THAT_SAYS, "no Python is installed that would say it")
    python = needed(label)
    with python.script("", "python-free") as name:
        program = python.root / name.lstrip("/") if python.root else Path(name)
        original = python.root / python.program.lstrip("/") if python.root else Path(python.program)
        shutil.copy(original.resolve(), program)
        with program.open("rb") as file:
            found = elf.read_elf(file.fileno())
            address = elf.symbol_addresses(found, [RUNTIME_SYMBOL])[RUNTIME_SYMBOL]
            segment = next(each for each in found.segments if 0 <= address - each.address < each.file_bytes)
        with program.open("r+b") as file:
            file.seek(segment.offset + address - segment.address + FLAG_AT)
            file.write(b"\1")
        command = dataclasses.replace(python, program=name).command()
        assert_explained(command, "CPython", label.rpartition("-")[2], "free-threaded")
        assert_not_walked(tmp_path, command, "CPython", label.rpartition("-")[2])


def claims(folder: Path, minor: int) -> list[str]:
    """How programs/hostile.c is told to be that CPython: as a file of that version says it, and where things are in it."""
    if minor < FIRST_WITH_VERSION:
        return [f'-DTEXT="3.{minor}.18"']
    if minor < FIRST_THAT_SAYS:
        return [f"-DVERSION=0x03{minor:02x}07f0"]
    python = needed(next(label for label in pythons.labels() if label.endswith(f"-3.{minor}")))
    program = python.root / python.program.lstrip("/") if python.root else Path(python.program)
    with program.open("rb") as file:
        found = elf.read_elf(file.fileno())
        symbols = elf.symbol_addresses(found, [RUNTIME_SYMBOL, VERSION_SYMBOL])
        number = int.from_bytes(elf.read_address(found, symbols[VERSION_SYMBOL], 4), "little")
        published = elf.read_address(found, symbols[RUNTIME_SYMBOL], debug_offsets.SIZE_BYTES[minor])
    words = folder / f"published-{minor}"
    words.write_text(",".join(f"{word:#x}" for word in np.frombuffer(published, "<u8").tolist()))
    return [f"-DVERSION={number:#x}", f'-DPUBLISHED="{words}"']


def test_hostile_memory(tmp_path: Path) -> None:
    """Programs that claim to be a Python and have anything but one's structures, one of each version: each of their
    operations is there, and the agent as quick as ever.
    """
    rounds = 3001
    with contextlib.ExitStack() as stack:
        targets = {}
        for minor in sorted(BY_MINOR):
            command = [compiled("hostile", "-rdynamic", *claims(tmp_path, minor)), str(minor), str(rounds)]
            target = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(target)
            stack.callback(target.kill)
            assert target.stdout is not None
            assert target.stdout.readline() == b"ready\n"
            targets[minor] = target
        pids = [option for target in targets.values() for option in ("--pid", str(target.pid))]
        with runs.attached(tmp_path, runs.profile(tmp_path, files={}, code={}), *pids) as agent:
            for target in targets.values():
                target.communicate(b".", timeout=60)
            ran = agent.finish()
    assert ran.status == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.balance["dropped"] == {}
    for minor, target in targets.items():
        spans = [span for span in ran.of(target.pid) if span.attributes.get("file.path") == "/dev"]
        assert len(spans) == rounds, minor
        version = str(spans[0].resource["process.runtime.version"])
        assert version.startswith(f"3.{minor}."), version
        ends = Counter(str(span.attributes.get("kernelspan.code.missing", "Complete")) for span in spans)
        assert len(ends) > 3, (minor, ends)  # the walk ends in many ways
