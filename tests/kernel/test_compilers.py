# SPDX-License-Identifier: Apache-2.0
"""The processes that compile: begun before there is anything to compile where something will be, and never left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_agent.probes import build, cache, children, constants
from kernelspan_agent.probes.build import Module
from kernelspan_agent.ring.size import RING_BYTES
from tests.support import runs

pytestmark = pytest.mark.root
CORE = Module("core", ("ks_fork", "ks_exec", "ks_gone"))


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of an agent that has compiled nothing yet."""
    yield {**os.environ, "KERNELSPAN_CACHE": str(tmp_path)}
    children.dismiss()


def ids() -> list[int]:
    return [child.pid for child in children._expected]


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def compiled(environ: dict[str, str], *modules: Module) -> build.Built:
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=False, raw=True)
    return build.build(modules or (CORE,), defines, environ)


def test_those_that_are_expected_do_the_work(environ: dict[str, str]) -> None:
    """Once something is kept nobody is expected to be wanted again; who was not wanted is gone."""
    children.expect(environ)
    expected = ids()
    assert len(expected) == children.at_once(environ)
    assert not compiled(environ).cached
    assert ids() == expected[:-1]
    assert not lives(expected[-1])
    children.dismiss()
    assert not any(map(lives, expected))
    assert cache.has_any(environ)
    children.expect(environ)
    assert not ids()
    assert compiled(environ).cached


def test_one_where_memory_is_bounded(environ: dict[str, str]) -> None:
    """As an agent's pod has it."""
    children.expect({**environ, children.AT_ONCE_VARIABLE: "1"})
    assert len(ids()) == 1


def test_what_was_kept_before_the_kernel_started(environ: dict[str, str], tmp_path: Path) -> None:
    """Is of no use, and the mark of it goes."""
    (tmp_path / "boot-00000000").touch()
    assert not cache.has_any(environ)
    compiled(environ)
    assert [path.name for path in tmp_path.glob("boot-*")] == [f"boot-{cache.boot_id().decode()}"]


def test_one_that_is_expected_and_dies(environ: dict[str, str]) -> None:
    """Another does the work."""
    children.expect(environ)
    for child in children._expected:
        child.kill()
        child.wait()
    assert compiled(environ).modules["core"]["programs"].keys() == set(CORE.programs)
    assert not ids()


def test_each_compiles_as_much() -> None:
    """Text that all modules have counts for nothing: it takes little time."""
    header = [f"#define {name} 1" for name in range(1000)]
    sizes = {"a": 900, "b": 500, "c": 450, "d": 10}
    texts = {name: "\n".join([*header, *(f"{name}{line:05}" for line in range(size))]) for name, size in sizes.items()}
    assert build._shares(texts, 2) == [["a", "d"], ["b", "c"]]
    assert build._shares(texts, 1) == [["a", "b", "c", "d"]]
    assert build._shares({"a": texts["a"]}, 1) == [["a"]]


def test_a_folder_that_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    """What cannot be kept is compiled again."""
    (tmp_path / "file").touch()
    nowhere = {**environ, "KERNELSPAN_CACHE": str(tmp_path / "file" / "objects")}
    for _ in range(2):
        assert not cache.has_any(nowhere)
        assert not compiled(nowhere).cached


def test_none_stays_beside_what_is_traced(environ: dict[str, str], tmp_path: Path) -> None:
    """All is kept, but nothing says that it was since the kernel started: some are expected, and gone before the command begins."""
    profile = runs.profile(tmp_path, files={"operations": ["Stat"]})
    listed = "for child in $(cat /proc/$PPID/task/*/children); do tr '\\0' ' ' < /proc/$child/cmdline; echo; done"
    for _ in range(2):
        for mark in tmp_path.glob("boot-*"):
            mark.unlink()
        ran = runs.run(tmp_path, profile, "sh", "-c", listed, env=environ)
        assert ran.status == 0, ran.stderr
        assert b"sh -c" in ran.stdout
        assert b"compiler.py" not in ran.stdout
