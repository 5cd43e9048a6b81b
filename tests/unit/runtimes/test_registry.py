# SPDX-License-Identifier: Apache-2.0
"""Runtimes are found by their folders; files are asked once."""

from __future__ import annotations

import os
import platform
import subprocess

from kernelspan_agent.process.files import FileKey
from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.runtimes import registry


def test_every_folder_is_a_runtime() -> None:
    """Names and numbers are the folders' own and differ."""
    found = registry.all_runtimes()
    assert "python" in {runtime.name for runtime in found}
    assert len({runtime.number for runtime in found}) == len(found)


def test_this_process_is_python() -> None:
    """The interpreter that runs the test is detected, with its version."""
    found = registry.detect(open_process(os.getpid()))
    assert isinstance(found, registry.DetectedRuntime)
    assert found.version == platform.python_version()


def test_another_program_is_none() -> None:
    """What holds no runtime is nothing, and is not asked again."""
    cache = registry.FileCache()
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            process = open_process(child.pid)
            while isinstance(found := registry.detect(process, cache), registry.Unsupported):
                assert found.reason == "RuntimePending"
            assert found is None
            known = dict(cache)
            assert None in known.values()
            assert registry.detect(process, cache) is None
            assert cache == known
        finally:
            child.kill()


def test_the_cache_is_bounded() -> None:
    """The file least recently learnt goes first."""
    cache = registry.FileCache()
    for inode in range(2 * registry.MAX_CACHED_FILES):
        cache[FileKey(1, inode, 1, 1)] = inode
    assert len(cache) == registry.MAX_CACHED_FILES
    assert FileKey(1, 0, 1, 1) not in cache
