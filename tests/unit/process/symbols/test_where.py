# SPDX-License-Identifier: Apache-2.0
"""The file a probe names: in whose tree, and what is no file to attach to."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ElfError, SymbolError
from kernelspan_agent.process.symbols import where
from kernelspan_agent.process.symbols.functions import find_functions
from kernelspan_agent.process.symbols.golang import go_program
from kernelspan_agent.process.symbols.usdt import list_probes


def refused(root: Path, path: str) -> SymbolError:
    with pytest.raises(SymbolError) as caught, where.open_path(path, str(root)):
        pass
    assert caught.value.reason == "BinaryNotFound"
    return caught.value


def test_what_is_no_regular_file_says_what_it_is(tmp_path: Path) -> None:
    """And nothing of it is opened: a FIFO would wait for a writer."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    assert "is a FIFO" in str(refused(tmp_path, "/fifo"))
    assert "is a directory" in str(refused(tmp_path, "/folder"))
    assert "is a socket" in str(refused(tmp_path, "/socket"))
    assert "has no file /none" in str(refused(tmp_path, "/none"))
    assert "has no file /loop" in str(refused(tmp_path, "/loop"))
    assert "no absolute path" in str(refused(tmp_path, "relative"))
    assert "has no file" in str(refused(tmp_path, "/a\0b"))


def test_no_link_leads_out_of_the_tree(tmp_path: Path) -> None:
    """Absolute and relative ones end at the root, as they do for the process."""
    inside = tmp_path / "root"
    (inside / "bin").mkdir(parents=True)
    (inside / "bin" / "app").write_bytes(b"inside")
    (tmp_path / "app").write_bytes(b"outside")
    (inside / "up").symlink_to("../../../app")
    (inside / "over").symlink_to("/bin/app")
    refused(inside, "/up")
    refused(inside, "/../app")
    with where.open_path("/over", str(inside)) as binary:
        assert os.pread(binary.fd, 100, 0) == b"inside"
        assert binary.path == "/bin/app"
        assert Path(binary.attach_path).samefile(inside / "bin" / "app")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" * 100, b"\x7fELF", b"\x7fELF\2\1\1" + b"\xff" * 200])
def test_what_is_no_program_says_so(tmp_path: Path, content: bytes) -> None:
    """A script, an empty file, a cut one."""
    (tmp_path / "file").write_bytes(content)
    with where.open_path(str(tmp_path / "file")) as binary:
        for ask in (lambda: find_functions(binary, ["main"]), lambda: list_probes(binary), lambda: go_program(binary)):
            with pytest.raises(ElfError):
                ask()


def test_a_huge_sparse_file_costs_nothing(tmp_path: Path) -> None:
    """Of zeros, and of a header that says everything is in it."""
    header = bytearray(Path("/bin/true").read_bytes()[:64])
    for name, start in (("zeros", b""), ("program", bytes(header))):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(1 << 40)
        with where.open_path(str(tmp_path / name)) as binary, pytest.raises((ElfError, SymbolError)):
            raise find_functions(binary, ["main"])[0].problem or AssertionError


def test_a_process_is_looked_into_by_its_own_links() -> None:
    """Its executable, what it has mapped, each file once; a path of its own tree."""
    process = procfs.open_process(os.getpid())
    with where.open_binary(process) as binary:
        assert Path(binary.attach_path).samefile(sys.executable)
        own = binary.identity
    with where.open_binary(process, os.path.realpath(sys.executable)) as binary:
        assert binary.identity == own
    identities = []
    for mapping in where.mapped_binaries(process):
        with where.open_mapped(process, mapping) as binary:
            identities.append(binary.identity)
    assert own in identities
    assert len(set(identities)) == len(identities)


def test_a_library_that_is_loaded_later_is_found_later(tmp_path: Path) -> None:
    """The list is of now."""
    process = procfs.open_process(os.getpid())
    library = tmp_path / "copy.so"
    library.write_bytes(Path(os.path.realpath("/lib/x86_64-linux-gnu/libm.so.6")).read_bytes())
    assert str(library) not in {mapping.path for mapping in where.mapped_binaries(process)}
    import ctypes

    ctypes.CDLL(str(library))
    assert str(library) in {mapping.path for mapping in where.mapped_binaries(process)}
