# SPDX-License-Identifier: Apache-2.0
"""A program that claims to be one of Go's and has anything but its structures."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from kernelspan_agent.process.elf import read_at, read_elf
from tests.support import gos, runs
from tests.support.compiled import compiled, run

pytestmark = pytest.mark.root
PROGRAM = Path(__file__).parents[2] / "support" / "programs" / "hostile_go.c"
SECTIONS = (".go.buildinfo", ".gopclntab")


@pytest.fixture(scope="module")
def hostile() -> object:
    """The program, with the sections of a real one: of a version whose table says where the text begins."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        environment = gos.sources(folder)
        real = gos.build(gos.needed(next(iter(gos.SUMS))), folder, "truth", environment)
        flags = ("-O1", "-no-pie", "-mno-red-zone", "-fno-omit-frame-pointer")
        program = compiled(folder, PROGRAM.read_text(), *flags, name="hostile_go")
        options = []
        with real.open("rb") as file:
            elf = read_elf(file.fileno())
            for name in SECTIONS:
                section = elf.section(name)
                assert section is not None
                (folder / name).write_bytes(read_at(file.fileno(), section.offset, section.size))
                options += ["--add-section", f"{name}={folder / name}"]
        run("objcopy", *options, str(program), str(folder / "claims"))
        yield folder / "claims"


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_memory(tmp_path: Path, hostile: Path, seed: int) -> None:
    """Each of its operations is there, and the agent as quick as ever."""
    rounds = 3001
    with subprocess.Popen(
        [str(hostile), str(seed), str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as target:
        try:
            assert target.stdout is not None
            assert target.stdout.readline() == b"ready\n"
            with runs.attached(tmp_path, runs.profile(tmp_path, files={}, code={}), "--pid", str(target.pid)) as agent:
                target.communicate(b".", timeout=60)
                ran = agent.finish()
        finally:
            target.kill()
    assert ran.status == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert sum(span.attributes.get("file.path") == "/dev" for span in ran.operations) == rounds
    assert ran.balance["dropped"] == {}
    assert len(ran.report["stacks"]) >= 3, ran.report["stacks"]  # the walk ends in many ways
