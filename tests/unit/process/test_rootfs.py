# SPDX-License-Identifier: Apache-2.0
"""Paths of a container are resolved inside it, within bounds, and only regular files are opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelspan_agent.process.rootfs import MAX_DEPTH, Root
from tests.unit.libraries.making import open_descriptors


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory `root` to be one, beside a file that must never be read."""
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("outside")
    return tmp_path


@pytest.mark.parametrize(
    "target", ["/secret", "../secret", "../../../../../../secret", "/../secret", "loop/../../secret"]
)
def test_a_link_never_leaves_the_root(outside: Path, target: str) -> None:
    """Neither an absolute target nor any number of `..` leads out; what is read is the root's own file."""
    root_path = outside / "root"
    (root_path / "link").symlink_to(target)
    (root_path / "loop").symlink_to("/")
    with Root(str(root_path)) as root:
        assert root.read("/link", 100) is None
        (root_path / "secret").write_text("inside")
        assert root.read("/link", 100) == b"inside"


def test_dotdot_after_a_link_is_the_parent_of_its_target(tmp_path: Path) -> None:
    """As the kernel resolves it: `/link/..` is where the link's target stands."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "link").symlink_to("/a/b")
    with Root(str(tmp_path)) as root:
        entry = root.find("/link/../file")
    assert entry is not None
    assert entry.path == "/a/file"


def test_walk_gives_one_entry_a_component_up_to_the_last_that_exists(tmp_path: Path) -> None:
    """Links are followed, but the entries stay in step with the components of the path asked for."""
    (tmp_path / "real/x").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    with Root(str(tmp_path)) as root:
        assert [entry.path for entry in root.walk("/link/x/none/y")] == ["/", "/real", "/real/x"]


def test_loops_and_depth_end(tmp_path: Path) -> None:
    """Links to themselves, to each other, and fans of links are not found, and cost no descriptors."""
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one/x")
    (tmp_path / "fan").symlink_to("/".join(["dots"] * 300))
    (tmp_path / "dots").symlink_to("./" * 1000)
    deep = tmp_path.joinpath(*["d"] * (MAX_DEPTH + 10))
    deep.mkdir(parents=True)
    before = open_descriptors()
    with Root(str(tmp_path)) as root:
        for path in ("/self", "/one", "/two/x", "/fan", "/d" * (MAX_DEPTH + 5), "/" + "x" * 5000):
            assert root.find(path) is None
            assert root.names(path, 10) == []
            assert root.read(path, 10) is None
        assert root.find("/d" * (MAX_DEPTH - 1)) is not None
    assert open_descriptors() == before


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device and a directory are refused without waiting."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "null").symlink_to("/dev/zero")
    with Root(str(tmp_path)) as root:
        assert [root.read(name, 10) for name in ("/pipe", "/directory", "/null")] == [None] * 3
    with Root("/") as root:
        assert root.read("/dev/zero", 10) is None


@pytest.mark.parametrize("name", ["/a\0b", "/\ud800", "/" + "é" * 300])
def test_names_no_file_can_have(tmp_path: Path, name: str) -> None:
    """NUL, a lone surrogate and a component that is too long are not found; none of them raises."""
    with Root(str(tmp_path)) as root:
        assert root.find(name) is None
        assert len(root.walk(name)) == 1
        assert root.read(name, 1) is None


def test_invalid_utf8_names_are_files_like_others(tmp_path: Path) -> None:
    """A name that is not UTF-8 comes and goes as Python writes it, with surrogate escapes."""
    (tmp_path / os.fsdecode(b"\xff.py")).write_bytes(b"x")
    with Root(str(tmp_path)) as root:
        assert root.names("/", 10) == ["\udcff.py"]
        assert root.read("/\udcff.py", 10) == b"x"


def test_reads_and_lists_are_cut_at_their_limits(tmp_path: Path) -> None:
    """The limits are exact, and a list within them is complete."""
    for number in range(20):
        (tmp_path / f"{number}").write_text("0123456789")
    with Root(str(tmp_path)) as root:
        assert len(root.names("/", 7)) == 7
        assert len(root.names("/", 20)) == 20
        assert root.read("/3", 4) == b"0123"


def test_a_root_that_is_gone_is_said_at_once(tmp_path: Path) -> None:
    """Opening is the one act that raises."""
    with pytest.raises(FileNotFoundError):
        Root(str(tmp_path / "none"))
