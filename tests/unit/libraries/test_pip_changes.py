# SPDX-License-Identifier: Apache-2.0
"""Indexes are shared, bounded, and follow what is installed while the process runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kernelspan_agent.libraries.base import LibraryContext
from kernelspan_agent.libraries.pip import MAX_PLACES, PipManager
from kernelspan_agent.libraries.pip import indexes as caching
from kernelspan_agent.libraries.pip.index import build_index
from kernelspan_agent.libraries.pip.indexes import COST_FACTOR, RECHECK_NS, SETTLE_NS, Indexes
from kernelspan_agent.libraries.pip.trees import DirectoryTree
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.rootfs import Entry, Root
from tests.unit.libraries.making import LATER_NS, SECOND_NS, SITE, Clock, Container, open_descriptors


class TickingClock(Clock):
    """Time passes with every look at it."""

    def __init__(self, step_ns: int) -> None:
        super().__init__()
        self.step_ns = step_ns

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


def entry_of(root: Root, path: str) -> Entry:
    """The entry of a path that is there."""
    entry = root.find(path)
    assert entry is not None
    return entry


def newest_ns(path: Path) -> int:
    """When the youngest file below was last changed."""
    return max(entry.stat().st_mtime_ns for entry in path.rglob("*"))


def test_an_upgrade_is_seen_after_the_recheck_and_not_before(tmp_path: Path) -> None:
    """Within the time nothing is read again; after it, the directory's own time of change tells."""
    clock = Clock()
    box = Container(tmp_path, clock)
    folder = box.install("one", "1", ["one/__init__.py"])
    assert box.owner(f"{SITE}/one/a.py") == "one 1"
    shutil.rmtree(box.at(folder))
    box.install("one", "2", ["one/__init__.py"])
    clock.now_ns += RECHECK_NS - 1
    assert box.owner(f"{SITE}/one/a.py") == "one 1"
    clock.now_ns += 1
    assert box.owner(f"{SITE}/one/a.py") == "one 2"


def test_an_index_read_in_the_middle_of_an_install_is_read_again(tmp_path: Path) -> None:
    """RECORD is written last and changes nothing of the site directory: youth alone is the sign."""
    box = Container(tmp_path, clock := Clock())
    folder = box.install("one", "1", ["one/__init__.py"])
    record = box.at(f"{folder}/RECORD")
    text = record.read_text()
    record.unlink()
    clock.now_ns = newest_ns(tmp_path) + SETTLE_NS // 2
    assert box.owner(f"{SITE}/one/a.py") == "Library"
    record.write_text(text)
    clock.now_ns += RECHECK_NS
    assert box.owner(f"{SITE}/one/a.py") == "one 1"


def test_a_clock_that_jumps_back_only_reads_again(tmp_path: Path) -> None:
    """A note from the future is no note."""
    box = Container(tmp_path, clock := Clock())
    assert box.owner(f"{SITE}/one/a.py") == "unknown"
    box.install("one", "1", ["one/__init__.py"])
    clock.now_ns -= 10 * RECHECK_NS
    assert box.owner(f"{SITE}/one/a.py") == "one 1"


def test_a_directory_that_changes_all_the_time_is_not_read_all_the_time(tmp_path: Path) -> None:
    """What took long to read is read again only after a multiple of that time."""
    box = Container(tmp_path)
    box.install("one", "1", ["one/__init__.py"])
    clock = TickingClock(step_ns=SECOND_NS)
    indexes = Indexes(clock)
    with Root(str(tmp_path)) as root:
        first = indexes.of_directory(root, entry_of(root, SITE))
        box.write(f"{SITE}/new.py")
        assert indexes.of_directory(root, entry_of(root, SITE)) is first
        clock.now_ns += COST_FACTOR * 10 * SECOND_NS
        assert indexes.of_directory(root, entry_of(root, SITE)) is not first


def test_processes_of_one_container_share_an_index(tmp_path: Path) -> None:
    """By device and inode: another root path, another link to the site directory, the same object."""
    box = Container(tmp_path / "box")
    box.install("one", "1", ["one/__init__.py"])
    (tmp_path / "same").symlink_to("box")
    manager = PipManager(Clock())
    for root in (tmp_path / "box", tmp_path / "same"):
        context = LibraryContext("python", root=str(root), version=(3, 11))
        origin, library = manager.classify(f"{SITE}/one/a.py", context)
        assert origin is Origin.LIBRARY
        assert library is not None
    assert len(manager._indexes) == 1


def test_the_caches_are_bounded(tmp_path: Path) -> None:
    """Directories without end leave at most the given number of notes and indexes."""
    box = Container(tmp_path)
    indexes = Indexes(Clock())
    for number in range(caching.MAX_INDEXES + 50):
        box.write(f"/many/{number}/a.py")
    with Root(str(tmp_path)) as root:
        for name in root.names("/many", 10_000):
            indexes.of_directory(root, entry_of(root, f"/many/{name}"))
    assert len(indexes) == caching.MAX_INDEXES
    for number in range(MAX_PLACES + 10):
        box.classify(f"{SITE}/{number}/a.py")
    assert 0 < len(box.context.notes) <= MAX_PLACES


def test_heavy_indexes_push_out_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the sum of their entries."""
    monkeypatch.setattr(caching, "MAX_WEIGHT", 1000)
    box = Container(tmp_path)
    for site in "abcdef":
        box.write(f"/{site}/one-1.dist-info/METADATA", "Name: one\nVersion: 1\n")
        box.write(f"/{site}/one-1.dist-info/RECORD", "".join(f"ns/m{number}.py,,\n" for number in range(200)))
    indexes = Indexes(Clock())
    with Root(str(tmp_path)) as root:
        for site in "abcdef":
            assert isinstance(indexes.of_directory(root, entry_of(root, f"/{site}")).owner("ns/m7.py"), Library)
    assert len(indexes) == 4


def test_packages_are_entries_and_files_are_not(tmp_path: Path) -> None:
    """Thousands of files of regular packages take one entry a package."""
    box = Container(tmp_path)
    box.install("big", "1", ["big/__init__.py", *(f"big/m{number}.py" for number in range(1000))])
    box.install("ns-a", "1", ["ns/a/__init__.py", *(f"ns/a/m{number}.py" for number in range(500))])
    box.install("ns-b", "1", ["ns/b/__init__.py", "ns/b/deep/x.py"])
    with Root(str(tmp_path)) as root:
        index = build_index(DirectoryTree(root, SITE), by_name=True, now_ns=LATER_NS)
    assert set(index.claims) == {"big", "ns", "ns/a", "ns/b"}


def test_a_process_that_is_gone_is_unknown(tmp_path: Path) -> None:
    """Its root cannot be opened any more: nothing is known, nothing raised, no descriptor left."""
    box = Container(tmp_path / "gone")
    before = open_descriptors()
    assert box.owner(f"{SITE}/one/a.py") == "unknown"
    assert box.owner("/app/../a.py") == "unknown"
    assert open_descriptors() == before
