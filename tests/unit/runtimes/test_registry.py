# SPDX-License-Identifier: Apache-2.0
"""Runtimes are found by their folders; files are asked once."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernelspan_agent.probes.constants import LAYOUT_BYTES
from kernelspan_agent.probes.source import module_text
from kernelspan_agent.process.elf import PAGE_BYTES
from kernelspan_agent.process.files import FileKey
from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.ring.records import CODE_HEADER
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.look import MAX_CACHED_FILES, FileCache
from kernelspan_agent.targets.command import program_of, programs_of


def test_every_folder_is_a_runtime() -> None:
    """Names and numbers are the folders' own and differ."""
    found = registry.all_runtimes()
    assert "python" in {runtime.name for runtime in found}
    assert len({runtime.number for runtime in found}) == len(found)


def test_every_walker_has_a_place_of_its_own() -> None:
    """Programs of all runtimes stand in one array of the kernel's, the first of each at its runtime's number."""
    found = registry.all_runtimes()
    places = [place for runtime in found for place in runtime.places]
    assert len(set(places)) == len(places)
    assert max(places) < registry.MAX_WALKERS
    for runtime in found:
        assert 0 < runtime.number < registry.MAX_RUNTIMES
        assert runtime.places[runtime.number] == runtime.walker.programs[0]


@pytest.mark.parametrize("runtime", registry.all_runtimes(), ids=lambda runtime: runtime.name)
def test_a_walker_is_all_that_is_compiled_for_it(runtime: registry.Runtime) -> None:
    """Its constants, structs and programs are in its own module's text, and in no other's; a layout has room in the kernel."""
    text = module_text(runtime.name)
    for program in runtime.walker.programs:
        assert re.search(rf"^int {program}\(void \*ctx\)", text, re.MULTILINE)
    for name in runtime.walker.structs:
        assert f"struct {name} {{" in text
        assert f"struct {name} {{" not in module_text("files")
    layout, *codes = runtime.walker.structs.values()
    assert layout.itemsize <= LAYOUT_BYTES
    for code in codes[:1]:  # where the program's file names all code, there is none
        fields, wanted = dict(code.fields or {}), dict(CODE_HEADER.fields or {})
        assert {name: fields[name][:2] for name in wanted} == {name: value[:2] for name, value in wanted.items()}


def test_this_process_is_python() -> None:
    """The interpreter that runs the test is detected, with its version."""
    found = registry.detect(open_process(os.getpid()))
    assert isinstance(found, registry.DetectedRuntime)
    assert found.version == platform.python_version()


def test_the_runtime_of_a_program(tmp_path: Path) -> None:
    """By its file, as a process has it and as it lies there; nothing of what is no program."""
    cache = FileCache()
    assert registry.of_program(f"/proc/{os.getpid()}/exe", cache) in {"python", ""}  # "": the library has it
    assert registry.of_program("/bin/sleep", cache) == ""
    assert registry.of_program(str(tmp_path), cache) == ""
    assert registry.of_program(str(tmp_path / "none"), cache) == ""
    (tmp_path / "text").write_text("php python")
    assert registry.of_program(str(tmp_path / "text"), cache) == ""


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (b"#!/usr/bin/php\n<?php", "/usr/bin/php"),
        (b"#! /usr/bin/php8.2 -n -d a=b\n", "/usr/bin/php8.2"),
        (b"#!/usr/bin/env -S A=1 sh -e\n", shutil.which("sh")),
        (b"#!/usr/bin/env no-such-program\n", None),
        (b"#!\n", None),
        (b"#!", None),
        (b"\x7fELF", None),
        (b"", None),
        (b"#!\xff\xfe\n", "\udcff\udcfe"),
    ],
)
def test_the_program_of_a_script(tmp_path: Path, text: bytes, program: str | None) -> None:
    """Its interpreter; the file itself where it names none."""
    path = tmp_path / "script"
    path.write_bytes(text)
    assert program_of(str(path)) == (program or str(path))


def test_the_programs_of_a_command_line(tmp_path: Path) -> None:
    """What a wrapper is given: by its path or its name, of a script its interpreter, each once; nothing that is no program."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\n")
    (tmp_path / "data").write_text("")
    words = ["timeout", "5", str(script), "no-such-program", str(tmp_path / "data"), str(tmp_path), "-e"]
    assert programs_of("/usr/bin/timeout", words) == ["/usr/bin/timeout"]
    script.chmod(0o755)
    assert programs_of("/usr/bin/timeout", words) == ["/usr/bin/timeout", "/bin/sh"]
    assert programs_of("/usr/bin/env", ["env", "sh", "sh"]) == ["/usr/bin/env", str(shutil.which("sh"))]
    assert programs_of("/usr/bin/env", ["env", *["-"] * 31, "sh"]) == ["/usr/bin/env"]


def test_what_is_foreseen_is_what_is_found() -> None:
    """Of the file that this process's runtime is in, before anybody has run it."""
    found = registry.detect(open_process(os.getpid()))
    assert isinstance(found, registry.DetectedRuntime)
    assert registry.is_library(found.file.rpartition("/")[2]) == (found.file != os.path.realpath(sys.executable))
    with open(found.file, "rb") as file:  # noqa: PTH123
        foreseen = registry.foresee(file.fileno(), FileCache())
    assert foreseen is not None
    assert (foreseen.runtime or "python", foreseen.version) == (found.runtime, found.version)
    assert foreseen.layout.tobytes() == found.layout.tobytes()
    assert (found.address - foreseen.address) % PAGE_BYTES == 0
    with open("/bin/sleep", "rb") as file:  # noqa: PTH123
        assert registry.foresee(file.fileno(), FileCache()) is None
    assert not registry.is_library("libc.so.6")


def test_another_program_is_native() -> None:
    """What holds no runtime is no other's, and is not asked again."""
    cache = FileCache()
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            process = open_process(child.pid)
            while isinstance(found := registry.detect(process, cache), registry.Unsupported):
                assert found.reason == "RuntimePending"
            assert isinstance(found, registry.DetectedRuntime)
            assert (found.runtime, found.file) == ("native", os.path.realpath("/bin/sleep"))
            known = dict(cache)
            assert None in known.values()
            assert registry.detect(process, cache) == found
            assert cache == known
        finally:
            child.kill()


def test_a_program_that_is_being_linked(tmp_path: Path) -> None:
    """What it will have is not known before its libraries are mapped. The linker waits here for a library that is a pipe."""
    pipe = tmp_path / "pipe.so"
    os.mkfifo(pipe)
    with subprocess.Popen(["/bin/sleep", "60"], env={"LD_PRELOAD": str(pipe)}, stderr=subprocess.DEVNULL) as child:
        try:
            process = open_process(child.pid)
            writer = pipe.open("wb")  # once the linker has opened it to read, which it cannot do yet
            found = registry.detect(process)
            assert isinstance(found, registry.Unsupported)
            assert (found.reason, found.message) == ("RuntimePending", "the program is still being linked")
            writer.close()  # no library after all: it goes on without
            while isinstance(found := registry.detect(process), registry.Unsupported):
                assert found.reason == "RuntimePending"
            assert isinstance(found, registry.DetectedRuntime)
            assert found.runtime == "native"
        finally:
            child.kill()


def test_the_cache_is_bounded() -> None:
    """The file least recently learnt goes first."""
    cache = FileCache()
    for inode in range(2 * MAX_CACHED_FILES):
        cache["python", FileKey(1, inode, 1, 1)] = inode
    assert len(cache) == MAX_CACHED_FILES
    assert ("python", FileKey(1, 0, 1, 1)) not in cache
