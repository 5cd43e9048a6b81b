# SPDX-License-Identifier: Apache-2.0
"""PHP: packages as Composer and PEAR install them.

Names that PHP makes up itself: `[internal function]` is the runtime's, and so `Command line code` and `Standard input code`
are the app's. Code of `FILE(LINE) : eval()'d code` is whose FILE is. What lies in an archive (phar://) is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict
from kernelspan_agent.libraries.composer.installed import Packages, owner_of
from kernelspan_agent.libraries.composer.lists import Lists
from kernelspan_agent.model import Origin
from kernelspan_agent.process.rootfs import MAX_DEPTH, MAX_PATH_BYTES, Root

RUNTIMES = ("php",)
MAX_PLACES = 1024  # directories remembered for one process
RECHECK_NS = 5_000_000_000
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_RUNTIME: Verdict = (Origin.RUNTIME, None)
_APP: Verdict = (Origin.APP, None)
_MADE = re.compile(r"\(\d+\) : (?:eval\(\)'d code|runtime-created function|assert code|regexp code)\Z")
_TYPED = ("Command line code", "Command line begin code", "Command line run code", "Standard input code")
_INTERNAL = "[internal function]"


def make(clock: Clock) -> ComposerManager:
    """The manager, with nothing read yet."""
    return ComposerManager(clock)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of the files of one directory: lists of packages around it, the nearest first."""

    real: str  # where the directory really is
    lists: tuple[Packages, ...]
    at_ns: int


class ComposerManager:
    """Origin, name and version of PHP files, from the metadata that the process's own files hold."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lists = Lists()

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, an op_array's filename, is."""
        if file == _INTERNAL:
            return _RUNTIME
        while (match := _MADE.search(file)) is not None:
            file = file[: match.start()]
        if file in _TYPED:
            return _APP
        if not file or len(file) > MAX_PATH_BYTES or "\0" in file or "://" in file:
            return _UNKNOWN
        if not file.startswith("/"):
            if not context.cwd.startswith("/"):
                return _UNKNOWN
            file = f"{context.cwd}/{file}"
        try:
            return self._classify_path(file, context)
        except OSError:  # the process's root is gone
            return _UNKNOWN

    def sites(self, files: Sequence[str], _prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """The lists of packages around these files, and how many packages each has. Raises OSError."""
        found: dict[str, int] = {}
        for directory in dict.fromkeys(file.rpartition("/")[0] for file in files if file.startswith("/")):
            for packages in self._place(directory or "/", context).lists:
                found[packages.place] = len(set(packages.by_path.values()))
        return found

    def _classify_path(self, file: str, context: LibraryContext) -> Verdict:
        directory, _, name = file.rpartition("/")
        place = self._place(directory or "/", context)
        for packages in place.lists:
            for path in dict.fromkeys((f"{place.real}/{name}", file)):
                found, library = owner_of(packages, path)
                if found:
                    return Origin.LIBRARY, library
        with Root(context.root) as root:
            entry = root.find(file)
        return _APP if entry is not None and entry.is_file else _UNKNOWN

    def _place(self, directory: str, context: LibraryContext) -> _Place:
        now_ns = self._clock()
        noted = context.notes.get(directory)
        if isinstance(noted, _Place) and 0 <= now_ns - noted.at_ns < RECHECK_NS:
            return noted
        found: list[Packages] = []
        with Root(context.root) as root:
            entry = root.find(directory)
            real = entry.path if entry is not None else directory
            for at in dict.fromkeys((*_upwards(real), *_upwards(directory))):
                found += self._lists.around(root, at)
        if len(context.notes) >= MAX_PLACES:
            context.notes.clear()
        place = context.notes[directory] = _Place(real, tuple(found), now_ns)
        return place


def _upwards(directory: str) -> list[str]:
    """The directory and those that it lies in."""
    found = [directory]
    while found[-1] not in {"", "/"} and len(found) < MAX_DEPTH:
        found.append(found[-1].rpartition("/")[0] or "/")
    return found
