# SPDX-License-Identifier: Apache-2.0
"""Python: distributions as pip and its like install them, and the standard library.

Names the interpreter makes up say who made the code only in part: `<frozen MODULE>` is the runtime's where MODULE is
of the standard library, `<stdin>` is the app (CPython gives it to the program it reads from there). `<string>` is
as often a library's exec (named tuples, dataclasses) as a `-c` program: it stays unknown, like every other `<...>`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict
from kernelspan_agent.libraries.pip.claims import Claim
from kernelspan_agent.libraries.pip.indexes import RECHECK_NS, Indexes
from kernelspan_agent.libraries.pip.places import Place, find_place
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.rootfs import MAX_PATH_BYTES, Root

RUNTIMES = ("python",)
MAX_PLACES = 1024  # directories remembered for one process; a large application has some hundreds
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_FROZEN = "<frozen "
_FROZEN_ONLY = frozenset({"getpath", "__phello__", "__hello__"})  # frozen, but no modules of the library


def make(clock: Clock) -> PipManager:
    """The manager, with nothing read yet."""
    return PipManager(clock)


class PipManager:
    """Origin, name and version of Python files, from the metadata that the process's own files hold."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._indexes = Indexes(clock)

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, a code object's co_filename, is."""
        if file.startswith("<"):
            return _classify_made_up(file)
        if not file or len(file) > MAX_PATH_BYTES or "\0" in file:
            return _UNKNOWN
        try:
            return self._classify_path(file, context)
        except OSError:  # the process's root is gone
            return _UNKNOWN

    def sites(self, files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """Directories with distributions, and how many. Raises OSError."""
        from kernelspan_agent.libraries.pip.sites import find_sites  # noqa: PLC0415 - only who explains asks

        return find_sites(files, prefixes, context)

    def _classify_path(self, file: str, context: LibraryContext) -> Verdict:
        path = _absolute(file, context)
        if path is None:
            return _UNKNOWN
        directory, _, name = path.rpartition("/")
        place = self._place(directory or "/", context)
        owner = place.owner(name)
        if isinstance(owner, Library):
            return Origin.LIBRARY, owner
        if owner is Claim.SOURCE:
            return Origin.APP, None
        if owner is Claim.UNCLEAR:
            return Origin.LIBRARY, None
        if place.otherwise is not None:
            return place.otherwise, place.library
        with Root(context.root) as root:
            found = root.find(path) or root.find(path + "c")  # sourceless: only x.pyc is there, named x.py
        return (Origin.APP, None) if found and found.is_file else _UNKNOWN

    def _place(self, directory: str, context: LibraryContext) -> Place:
        now_ns = self._clock()
        noted = context.notes.get(directory)
        if isinstance(noted, tuple) and 0 <= now_ns - noted[1] < RECHECK_NS:
            place: Place = noted[0]
            return place
        with Root(context.root) as root:
            place = find_place(directory, context, root, self._indexes)
        if len(context.notes) >= MAX_PLACES:
            context.notes.clear()
        context.notes[directory] = (place, now_ns)
        return place


def _classify_made_up(name: str) -> Verdict:
    if name == "<stdin>":
        return Origin.APP, None
    if name.startswith(_FROZEN) and name.endswith(">"):
        module = name[len(_FROZEN) : -1].partition(".")[0]
        if module in sys.stdlib_module_names or module in _FROZEN_ONLY:
            return Origin.RUNTIME, None
    return _UNKNOWN


def _absolute(file: str, context: LibraryContext) -> str | None:
    """The absolute path without `.` and `..`; None where a relative name does not lead to a file."""
    relative = not file.startswith("/")
    if relative and not context.cwd.startswith("/"):
        return None
    path = f"{context.cwd}/{file}" if relative else file
    parts = [part for part in path.split("/") if part not in {"", "."}]
    plain = "/" + "/".join(parts)
    if not relative and ".." not in parts:
        return plain
    with Root(context.root) as root:
        # The kernel's sense of `..`: the parent of where a link leads, not of the link.
        entry = root.find(plain)
    if entry is None:
        return None
    return entry.path if ".." in parts else plain
