# SPDX-License-Identifier: Apache-2.0
"""Type Path of a directory entry: absolute only where that is certain, and never of another file.

The probe is on exec, where the kernel has the file, its path and its entry at hand: each tells the same place.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.probes.btf import Btf
from tests.support import own
from tests.support.runs import SYSTEM_PYTHON

# Runs what it is told, each in its folder; what is behind a mount through a descriptor that was opened before.
PROGRAM = """
import ctypes, json, os, subprocess, sys

def covered(program, over):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(program, os.O_PATH)
    for made in (libc.unshare(0x20000), libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None),
                 libc.mount(b"none", over.encode(), b"tmpfs", 0, None)):
        assert made == 0, ctypes.get_errno()
    os.execve(fd, ["covered"], {})

for program, folder in json.loads(sys.argv[1]):
    subprocess.run([program], cwd=folder, check=True)
program, over = json.loads(sys.argv[2])
pid = os.fork()
if not pid:
    covered(program, over)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in another file system than the root's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert Path(folder).stat().st_dev != Path("/").stat().st_dev
        yield Path(folder)


@pytest.fixture(scope="module")
def seen(memory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What was told of each exec, by the program's name."""
    folder = tmp_path_factory.mktemp("entries")
    over = folder / "over"
    over.mkdir()
    true = Path("/bin/true").read_bytes()
    programs = [folder / "at-root", memory / "elsewhere", memory / "beside", over / "below"]
    for each in programs:
        each.write_bytes(true)
        each.chmod(0o755)
    with Btf.of_kernel() as btf:
        path = "f_path" if btf.member(btf.struct("file"), "f_path") else "__f_path"
    probe = {
        "name": "exec",
        "mode": "Event",
        "tracepoint": {"category": "sched", "event": "sched_process_exec", "raw": True},
        "args": [
            own.argument(2, "File", "file", resolve="file"),
            own.argument(2, "Path", "path", resolve=f"file.{path}"),
            own.argument(2, "Path", "entry", resolve=f"file.{path}.dentry"),
            own.argument(2, "Path", "parent", resolve=f"file.{path}.dentry.d_parent"),
        ],
    }
    runs = [(str(each), "/") for each in programs[:2]] + [(str(programs[2]), str(memory))]
    ran = own.run(
        folder,
        [probe],
        SYSTEM_PYTHON,
        "-c",
        PROGRAM,
        json.dumps(runs),
        json.dumps([str(programs[3]), str(over)]),
    )
    spans = own.by_probe(ran)["exec"]
    return {Path(str(span.attributes["file"])).name: dict(span.attributes) for span in spans}


def test_an_entry_of_the_roots_file_system_is_absolute(seen: dict[str, dict[str, Any]]) -> None:
    """As the file's own path is, and the folder's."""
    found = seen["at-root"]
    if Path("/").stat().st_dev == Path(found["file"]).parent.stat().st_dev:
        assert found["entry"] == found["path"] == found["file"]
        assert found["parent"] == str(Path(found["file"]).parent)
    else:
        assert not found["entry"].startswith("/")


def test_of_another_file_system_it_is_the_path_inside_that(seen: dict[str, dict[str, Any]], memory: Path) -> None:
    """No leading slash: where it is mounted is not known."""
    found = seen["elsewhere"]
    assert found["file"] == str(memory / "elsewhere")
    assert found["entry"] == f"{memory.name}/elsewhere"
    assert found["parent"] == memory.name


def test_beside_the_working_directory_it_is_absolute(seen: dict[str, dict[str, Any]], memory: Path) -> None:
    """The process is in that file system, so its mount is known."""
    assert seen["beside"]["entry"] == seen["beside"]["file"] == str(memory / "beside")


def test_what_a_mount_covers_has_no_absolute_path(seen: dict[str, dict[str, Any]]) -> None:
    """By the same text another file would be found there, or none."""
    found = seen["below"]
    assert not found["entry"].startswith("/")
    assert found["entry"].endswith("over/below")
