# SPDX-License-Identifier: Apache-2.0
"""What spans say of C, C++ and Rust is what libgcc's unwinder said at the same place: of every frame function and file.

Recursion, callbacks through libc, signal handlers on either stack, exceptions, coroutines, threads, frames of every kind; compiled
with and without frame pointers, optimised or not, static, position-independent or not. Nothing may be wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import native_runs

pytestmark = pytest.mark.root
C_MODES = {
    "plain": ("-O2",),
    "not optimised": ("-O0",),
    "frame pointers": ("-O3", "-fno-omit-frame-pointer"),
    "static": ("-O2", "-static"),
    "static, position-independent": ("-O2", "-static-pie"),
    "at a fixed place": ("-O3", "-no-pie", "-mavx2"),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the targets are built."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_every_frame_of_c_is_true(folder: Path) -> None:
    """In every way that a program is built."""
    programs = [native_runs.build(folder, f"c{i}", "truth.c", *flags) for i, flags in enumerate(C_MODES.values())]
    for verdict, mode in zip(native_runs.traced(programs, "600")[0], C_MODES, strict=True):
        assert_true(verdict, mode)


CC_MODES = {
    "plain": ("-O2",),
    "not optimised": ("-O0",),
    "all optimised": ("-O3", "-fno-omit-frame-pointer"),
    "static": ("-O2", "-static"),
}


def test_every_frame_of_cc_is_true(folder: Path) -> None:
    """Exceptions on their way, too."""
    programs = [
        native_runs.build(folder, f"cc{i}", "truth.cc", *flags, compiler="g++")
        for i, flags in enumerate(CC_MODES.values())
    ]
    for verdict, mode in zip(native_runs.traced(programs, "400")[0], CC_MODES, strict=True):
        assert_true(verdict, mode)


def test_every_frame_of_rust_is_true(folder: Path) -> None:
    """Panics on their way, too; optimised or not, by names of either scheme."""
    modes = {
        "plain": ("-O",),
        "not optimised": ("-C", "opt-level=0"),
        "new names": ("-O", "-C", "symbol-mangling-version=v0"),
    }
    programs = [native_runs.build_rust(folder, f"rs{i}", *flags) for i, flags in enumerate(modes.values())]
    for verdict, mode in zip(native_runs.traced(programs, "400")[0], modes, strict=True):
        assert_true(verdict, mode)


def test_libraries_in_each_others_place(folder: Path) -> None:
    """Loaded and unloaded all the time, at one address: what the kernel was told of is often not what lies there."""
    program = native_runs.plugins(folder)
    (verdict,), _, _ = native_runs.traced([program], "120")
    print(verdict.said, verdict.whole, verdict.truncated)
    assert not verdict.wrong, (len(verdict.wrong), verdict.wrong[:5])
    assert not verdict.missing
    assert verdict.said == 480
    assert set(verdict.truncated) <= {"CodeNotMapped"}
    assert verdict.truncated["CodeNotMapped"] > 20  # else nothing was tried
    assert verdict.whole > 20


def test_libraries_without_an_identity(folder: Path) -> None:
    """Nothing is said of them."""
    program = native_runs.plugins(folder, "-Wl,--build-id=none")
    (verdict,), _, _ = native_runs.traced([program], "50")
    assert not verdict.wrong, (len(verdict.wrong), verdict.wrong[:5])
    assert verdict.truncated == {"CodeNotMapped": 200}


def assert_true(verdict: native_runs.Verdict, mode: str) -> None:
    """Nothing is wrong, and nothing missing but what begins where no table says that anybody has called."""
    print(mode, verdict.said, verdict.whole, verdict.truncated, verdict.missing, verdict.frames)
    assert not verdict.wrong, (mode, len(verdict.wrong), verdict.wrong[:5])
    assert not verdict.missing, mode
    assert verdict.said > 2000, mode
