# SPDX-License-Identifier: Apache-2.0
"""CRuby on musl, all of it in the program itself: no Debian suite packages one, so it is built from a suite's own source package.

What is built is the interpreter without extensions (`miniruby`), which is the whole of what is walked. It stands in a root of its
own with musl's loader and nothing of glibc's.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import musl
from tools import debian

VERSION, SUITE = "3.3", "trixie"
PROGRAM = "/usr/bin/ruby"
_RECIPE = "1"  # part of the cache's name: a change here makes a new root
_LOADER = Path("/lib/ld-musl-x86_64.so.1")
_OPTIONS = ("--disable-shared", "--disable-install-doc", "--disable-jit-support", "--with-baseruby=no", "--without-gmp")


def root(cache: Path) -> Path:
    """The root with this program; built if it is not there, in some minutes. Raises MuslError, DebianError."""
    if shutil.which("musl-gcc") is None:
        raise musl.MuslError("musl-gcc is not installed (tools/apt test)")
    made = cache / f"musl-{VERSION}-{_RECIPE}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _build(Path(scratch))
            with contextlib.suppress(OSError):  # another session was faster
                Path(scratch, "root").rename(made)
    return made


def _build(scratch: Path) -> None:
    log, compiler = scratch / "log", musl._compiler(scratch)
    with debian.suite(SUITE, scratch, source=True) as apt:
        for archive in apt.fetch_source(f"ruby{VERSION}"):
            subprocess.run(["tar", "-xf", str(archive), "-C", str(scratch)], check=True)
    (source,) = scratch.glob(f"ruby-{VERSION}.*")
    musl._run(log, source, "./configure", "--quiet", f"CC={compiler}", "CFLAGS=-O1", *_OPTIONS)
    musl._run(log, source, "make", "-s", musl._jobs(), "miniruby")
    made = scratch / "root"
    for folder in ("usr/bin", "lib", "tmp", "proc", "dev"):
        (made / folder).mkdir(parents=True)
    shutil.copy(source / "miniruby", made / PROGRAM.lstrip("/"))
    shutil.copy(_LOADER.resolve(), made / "lib" / _LOADER.name)
