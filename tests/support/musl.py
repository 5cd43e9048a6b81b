# SPDX-License-Identifier: Apache-2.0
"""CPython on musl, as Alpine has it: no Debian suite packages one, so it is built from a suite's own source package.

One compile gives three programs that hold the interpreter in three ways. They stand in a root of their own with musl's
loader and nothing of glibc's, in the user's cache folder, by the recipe and the compiler they were made with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools import debian

SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}  # later sources: not at every mirror
USUAL = "3.11"  # its offsets are from our own tables, not from the interpreter, and its code objects have no version
_FFI_SUITE = "bookworm"  # later ones have no configure
_SECONDS = 900.0  # for one step
_LOADER = Path("/lib/ld-musl-x86_64.so.1")
# What the tests' targets and what they import need, of what the version offers, and what 3.9 does not.
_OFFERED = (
    "_asyncio _bisect _blake2 _contextvars _datetime _heapq _interpreters _interpchannels _interpqueues _json _md5 _opcode "
    "_pickle _posixsubprocess _queue _random _sha1 _sha2 _sha256 _sha3 _sha512 _socket _statistics _struct _typing array "
    "binascii fcntl grp math mmap resource select termios unicodedata"
)
_OFFER = re.compile(r"#?(\w+) ((?:-\S+ )*\S+\.c\b[^#]*)")
_FIXED = """
_multiprocessing _multiprocessing/multiprocessing.c _multiprocessing/semaphore.c
_posixshmem _multiprocessing/posixshmem.c
_ctypes _ctypes/_ctypes.c _ctypes/callbacks.c _ctypes/callproc.c _ctypes/stgdict.c _ctypes/cfield.c -I{ffi}/include \
-DHAVE_FFI_PREP_CIF_VAR -DHAVE_FFI_PREP_CLOSURE_LOC -DHAVE_FFI_CLOSURE_ALLOC {ffi}/lib/libffi.a
"""
_SUBINTERPRETERS = "_xxsubinterpreters _xxsubinterpretersmodule.c\n"  # before 3.13
_NOT_NEEDED = ("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip")
# Threads of musl's have 128 KiB of stack, too little for CPython's recursion; Alpine's images give them as much as this.
_FLAGS = "-O1 -pipe -DTHREAD_STACK_SIZE=0x100000"


class MuslError(Exception):
    """Cannot be built on this machine; says why."""


def root(version: str, cache: Path) -> Path:
    """The root with usr/bin/python3.x, python3.x-shared and python3.x-static; built if it is not there. Raises MuslError."""
    if shutil.which("musl-gcc") is None:
        raise MuslError("musl-gcc is not installed (tools/apt test)")
    made = cache / f"musl-{version}-{_key()}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _build(version, Path(scratch))
            with contextlib.suppress(OSError):  # another session was faster
                Path(scratch, "root").rename(made)
    if not made.exists():
        raise MuslError(f"{made} could not be made")
    return made


def _key() -> str:
    compiler = subprocess.run(["musl-gcc", "-v"], capture_output=True, check=True).stderr
    libc = subprocess.run([str(_LOADER)], capture_output=True, check=False).stderr  # says its version
    return hashlib.sha256(compiler + libc + Path(__file__).read_bytes()).hexdigest()[:16]


def _build(version: str, scratch: Path) -> None:
    log, ffi = scratch / "log", scratch / "ffi"
    compiler = _compiler(scratch)
    try:
        for suite, package in ((SUITES[version], f"python{version}"), (_FFI_SUITE, "libffi")):
            with debian.suite(suite, scratch, source=True) as apt:
                for archive in apt.fetch_source(package):
                    subprocess.run(["tar", "-xf", str(archive), "-C", str(scratch)], check=True)
    except debian.DebianError as error:
        raise MuslError(str(error)) from error
    (python,), (libffi,) = scratch.glob("Python-*"), scratch.glob("libffi-*")
    options = ["--quiet", f"CC={compiler}", "--disable-shared", "--with-pic", "--disable-docs", f"--prefix={ffi}"]
    _run(log, libffi, "./configure", *options, "--disable-exec-static-tramp")
    _run(log, libffi, "make", "-s", _jobs(), "install")
    # PKG_CONFIG: it would find the libraries of this machine's glibc.
    options = ["--quiet", f"CC={compiler}", f"CFLAGS={_FLAGS}", "PKG_CONFIG=false", "--prefix=/usr", "--enable-shared"]
    _run(log, python, "./configure", *options, "--without-ensurepip", "--without-doc-strings")
    _choose_modules(python, ffi)
    _run(log, python, "make", "-s", _jobs(), "pybuilddir.txt", f"libpython{version}.a")
    archives = [ffi / "lib" / "libffi.a", *python.glob("Modules/_hacl/*.a")]
    own = ["-Wl,--whole-archive", f"libpython{version}.a", "-Wl,--no-whole-archive", *map(str, archives)]
    for program, how in ((f"python{version}", "-Wl,--export-dynamic"), (f"python{version}-static", "-static")):
        _run(log, python, str(compiler), how, "-o", program, "Programs/python.o", *own, "-lm")
    _install(python, version, scratch / "root")


def _compiler(scratch: Path) -> Path:
    """musl-gcc, with the kernel's headers, where it does not look, and without a triplet, which would be glibc's."""
    headers = scratch / "headers"
    headers.mkdir()
    for name, place in (("linux", "linux"), ("asm-generic", "asm-generic"), ("asm", "x86_64-linux-gnu/asm")):
        (headers / name).symlink_to(Path("/usr/include", place))
    compiler = scratch / "cc"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --print-multiarch ] || exec musl-gcc -isystem {headers} "$@"\n')
    compiler.chmod(0o755)
    return compiler


def _choose_modules(python: Path, ffi: Path) -> None:
    """Builds the chosen extension modules in: a static program could not load them."""
    offered = python / "Modules" / "Setup.stdlib"  # 3.11+
    lines = (offered if offered.exists() else offered.with_name("Setup")).read_text("utf-8").splitlines()
    offers = [match for line in lines if (match := _OFFER.match(line)) and match[1] in _OFFERED.split()]
    text = "*static*\n" + "".join(f"{match[1]} {match[2]}\n" for match in offers) + _FIXED.format(ffi=ffi)
    if (python / "Modules" / _SUBINTERPRETERS.split()[1]).exists():
        text += _SUBINTERPRETERS
    (python / "Modules" / "Setup.local").write_text(text)


def _install(python: Path, version: str, made: Path) -> None:
    """What `make install` would, without compiling the whole library three times over."""
    for name in ("lib", "usr/bin", "usr/lib", "tmp", "proc", "dev"):
        (made / name).mkdir(parents=True)
    shutil.copy(_LOADER, made / "lib")
    library = made / "usr" / "lib" / f"python{version}"
    shutil.copytree(python / "Lib", library, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
    (library / "lib-dynload").mkdir()
    for settings in (python / (python / "pybuilddir.txt").read_text()).glob("_sysconfigdata*.py"):
        shutil.copy(settings, library)
    programs = made / "usr" / "bin"
    shutil.copy(python / f"python{version}", programs)
    shutil.copy(python / f"python{version}-static", programs)
    shutil.copy(python / "python", programs / f"python{version}-shared")
    shutil.copy(python / f"libpython{version}.so.1.0", made / "usr" / "lib")
    # Alpine's are stripped
    subprocess.run(
        ["strip", programs / f"python{version}-shared", made / "usr/lib" / f"libpython{version}.so.1.0"], check=True
    )


def _run(log: Path, where: Path, *command: str) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    with log.open("wb") as output:
        done = subprocess.run(
            command, cwd=where, env=environment, stdout=output, stderr=output, timeout=_SECONDS, check=False
        )
    if done.returncode:
        raise MuslError(f"{' '.join(command)[:200]}: {log.read_text(errors='replace')[-1000:]}")


def _jobs() -> str:
    return f"-j{len(os.sched_getaffinity(0))}"
