# SPDX-License-Identifier: Apache-2.0
"""Every CPython that tests run against: the machine's own, and those of Debian's suites in roots of their own, and those on musl.

Each suite is unpacked once, with the libc and libraries it needs, into the user's cache folder, and runs there by chroot
in a PID namespace of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import musl
from tools import debian

SUITES = {
    "bullseye": ("3.9",),
    "bookworm": ("3.11",),
    "trixie": ("3.13",),
    "sid": ("3.14", "3.15"),
}
OTHERS = {"bullseye": ("pypy3", "python2.7")}  # Pythons that nobody walks; other suites have no older CPython
# On musl: the end of the program's name, and whether it runs in its root, where nothing is glibc's.
MUSL = {"musl": ("", False), "muslshared": ("-shared", True), "muslstatic": ("-static", False)}
MINORS = range(8, 16)
SECONDS_TO_START = 10.0
SECONDS_TO_ANSWER = 30.0
_RECIPE = "2"  # part of the cache's name: a change here makes new roots


class PythonsError(Exception):
    """A suite cannot be had on this machine; says why."""


@dataclass(frozen=True)
class Interpreter:
    """One CPython. `root` is where it is chrooted to; None: the machine's own root."""

    label: str
    minor: int
    program: str
    root: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        """What to run: the interpreter, in its root and PID namespace, with a /proc of that."""
        if self.root is None:
            return [self.program, *arguments]
        own = ["unshare", "-pf", "--kill-child", f"--mount-proc={self.root}/proc", "chroot", str(self.root)]
        return [*own, self.program, *arguments]

    @contextlib.contextmanager
    def script(self, text: str, name: str = "target.py") -> Iterator[str]:
        """A file with this text, by the name under which the interpreter sees it."""
        base = self.root / "tmp" if self.root else Path(tempfile.gettempdir())
        with tempfile.TemporaryDirectory(dir=base) as folder:
            path = Path(folder, name)
            path.write_text(text, encoding="utf-8")
            yield str(path if self.root is None else Path("/") / path.relative_to(self.root))

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[Program]:
        """The interpreter at work with pipes to its input and output; ended at the end."""
        with subprocess.Popen(
            self.command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment()
        ) as started:
            try:
                yield Program(started, self)
            finally:
                started.kill()


@dataclass(frozen=True)
class Program:
    """A running interpreter."""

    started: subprocess.Popen[bytes]
    interpreter: Interpreter

    @property
    def pid(self) -> int:
        """The interpreter's pid here: that of unshare's child where it has a namespace of its own."""
        return _only_child(self.started.pid) if self.interpreter.root else self.started.pid

    def line(self) -> str:
        """The next line of its output; raises AssertionError at its end or where none comes."""
        assert self.started.stdout is not None
        output = self.started.stdout.fileno()
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], SECONDS_TO_ANSWER)
            assert ready, f"{self.interpreter.label} says nothing"
            part = self.started.stdout.readline()
            assert part, f"{self.interpreter.label} ended: {self.started.wait()}"
            line += part
        return line[:-1].decode("utf-8")

    def parked(self, threads: int = 1) -> None:
        """Returns when so many threads wait in a read of its input: only then do its frames stand still."""
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        tasks = Path(f"/proc/{self.pid}/task")
        while sum(_reads_input(task) for task in tasks.iterdir()) < threads:
            assert time.monotonic() < deadline, f"{self.interpreter.label} does not park"
            time.sleep(0.001)

    def go_on(self, data: bytes = b".") -> None:
        """Gives its input a byte."""
        assert self.started.stdin is not None
        self.started.stdin.write(data)


@functools.cache
def own_interpreters() -> tuple[Interpreter, ...]:
    """Pyenv's versions and the system's."""
    found = []
    for program in sorted(_pyenv_versions().glob("3.*/bin/python3")):
        version = program.parts[-3]
        if int(version.split(".")[1]) in MINORS:
            found.append(Interpreter(f"pyenv-{version}", int(version.split(".")[1]), str(program)))
    system = Path("/usr/bin/python3")
    if system.exists() and (match := re.fullmatch(r"python3\.(\d+)", system.resolve().name)):
        found.append(Interpreter(f"system-3.{match[1]}", int(match[1]), str(system)))
    return tuple(found)


@functools.cache
def suite_interpreters(suite: str) -> tuple[Interpreter, ...]:
    """The interpreters of a Debian suite, fetched and unpacked if they are not. Raises PythonsError."""
    root = _root(suite)
    return tuple(
        Interpreter(f"{suite}-{version}", int(version.split(".")[1]), f"/usr/bin/python{version}", root)
        for version in SUITES[suite]
    )


def other_command(name: str, *arguments: str) -> list[str]:
    """How to run one of OTHERS, in its root and PID namespace. Raises PythonsError."""
    suite = next(suite for suite, names in OTHERS.items() if name in names)
    return Interpreter(name, 0, f"/usr/bin/{name}", _root(suite)).command(*arguments)


@functools.cache
def musl_interpreter(kind: str, version: str) -> Interpreter:
    """An interpreter on musl, built if it is not. Raises PythonsError."""
    ending, rooted = MUSL[kind]
    try:
        root = musl.root(version, _cache_folder())
    except musl.MuslError as error:
        raise PythonsError(str(error)) from error
    program = f"/usr/bin/python{version}{ending}"
    minor = int(version.split(".")[1])
    return Interpreter(f"{kind}-{version}", minor, program if rooted else f"{root}{program}", root if rooted else None)


def labels() -> list[str]:
    """Every interpreter's label, without fetching or building any: for parametrisation."""
    debian = [f"{suite}-{version}" for suite, versions in SUITES.items() for version in versions]
    return [interpreter.label for interpreter in own_interpreters()] + debian + musl_labels()


def musl_labels() -> list[str]:
    """Labels of the interpreters on musl; of all versions for KERNELSPAN_MATRIX, since each is built."""
    versions = musl.SUITES if os.environ.get("KERNELSPAN_MATRIX") else (musl.USUAL,)
    return [f"{kind}-{version}" for version in versions for kind in MUSL]


def interpreter(label: str) -> Interpreter:
    """The interpreter with this label. Raises PythonsError where it cannot be had."""
    kind, _, version = label.rpartition("-")
    if kind in MUSL:
        return musl_interpreter(kind, version)
    known = suite_interpreters(kind) if kind in SUITES else own_interpreters()
    return next(python for python in known if python.label == label)


def _root(suite: str) -> Path:
    if os.geteuid():
        raise PythonsError("chroot needs root")
    root = _cache_folder() / f"{suite}-{_RECIPE}"
    if not root.exists():
        _make_root(suite, root)
    return root


def has_root(label: str) -> bool:
    """Whether the interpreter with this label runs in a root and a PID namespace of its own."""
    kind = label.rpartition("-")[0]
    return kind in SUITES or (kind in MUSL and MUSL[kind][1])


def is_static(label: str) -> bool:
    """Whether the interpreter with this label has its libc in it, and can load no libraries."""
    return label.startswith("muslstatic-")


def _make_root(suite: str, root: Path) -> None:
    names = [*(f"python{version}" for version in SUITES[suite]), *OTHERS.get(suite, ())]
    proofs = [[f"/usr/bin/{name}", "-c", "import json, threading"] for name in names]
    try:
        debian.make_root(suite, names, root, proofs)
    except debian.DebianError as error:
        raise PythonsError(str(error)) from error


def _only_child(pid: int) -> int:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError(f"process {pid} started no child")


def _reads_input(task: Path) -> bool:
    with contextlib.suppress(OSError):
        # "number first-argument ...", or "running": read is 0 on x86-64
        return (task / "syscall").read_text().startswith("0 0x0 ")
    return False


def _pyenv_versions() -> Path:
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "pythons"


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
