# SPDX-License-Identifier: Apache-2.0
"""Programs without a runtime: the executable is the app's, the C and C++ libraries are the runtime's, and other shared
libraries are those of the distribution's packages, by dpkg's own lists; what no package has is called by its file's name.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from kernelspan_agent.libraries.deb.packages import STATUS, Packages, read_packages
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.procfs import printable, read_executable
from kernelspan_agent.process.rootfs import Root

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict

RUNTIMES = ("native",)
MAX_ROOTS = 8
MAX_FILES = 1024  # remembered for one process
_RUNTIME = re.compile(
    r"(?:ld-linux[^/]*|ld-musl[^/]*|ld-[\d.]+|lib(?:c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+|c\+\+|c\+\+abi)(?:-[\d.]+)?)\.so[.\d]*\Z"
)
_SHARED = re.compile(r"\.so(?:\.|\Z)")
_FILES, _PROGRAM = "deb files", "deb program"


def make(clock: Clock) -> DebManager:
    """The manager, with nothing read yet."""
    del clock
    return DebManager()


class DebManager:
    """Origin, name and version of what a process has mapped."""

    def __init__(self) -> None:
        self._packages: OrderedDict[tuple[int, int, int, int], Packages] = (
            OrderedDict()
        )  # by the status file that they are of

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, the path of what is mapped, is."""
        known: dict[str, Verdict] = context.notes.setdefault(_FILES, {})  # type: ignore[assignment]
        found = known.get(file)
        if found is None:
            if len(known) >= MAX_FILES:
                known.clear()
            found = known[file] = self._classify(file, context)
        return found

    def _classify(self, file: str, context: LibraryContext) -> Verdict:
        if not file.startswith("/"):
            return Origin.UNKNOWN, None
        if file == _program(context):
            return Origin.APP, None
        name = file.rpartition("/")[2]
        if _RUNTIME.match(name):
            return Origin.RUNTIME, None
        if not _SHARED.search(name):
            return Origin.UNKNOWN, None
        return Origin.LIBRARY, self._library(file, context) or _by_name(name)

    def _library(self, file: str, context: LibraryContext) -> Library | None:
        try:
            with Root(context.root) as root:
                status = root.find(STATUS)
                if status is None or not status.is_file:
                    return None
                if status.key not in self._packages:
                    self._packages[status.key] = read_packages(root)
                    if len(self._packages) > MAX_ROOTS:
                        self._packages.popitem(last=False)
                self._packages.move_to_end(status.key)
                return self._packages[status.key].owner(file)
        except OSError:
            return None

    def sites(self, files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """None: packages are the whole system's."""
        del files, prefixes, context
        return {}


def _program(context: LibraryContext) -> str:
    if _PROGRAM not in context.notes:
        try:
            context.notes[_PROGRAM] = read_executable(context.process)[0] if context.process is not None else ""
        except ProcessError:
            context.notes[_PROGRAM] = ""
    return str(context.notes[_PROGRAM])


def _by_name(name: str) -> Library:
    shown = printable(name)
    return Library(shown, "", f"pkg:generic/{quote(shown, '.-_~')}")
