# SPDX-License-Identifier: Apache-2.0
"""Ruby: gems as RubyGems and Bundler install them, default gems, and what is Ruby's own.

Names that Ruby makes up itself: `<internal:kernel>` is the runtime's, `-e` and `-` are the app's. Code of
`(eval at FILE:LINE)` is whose FILE is; of `(eval)` nobody can say. C functions bear the file of the library they are in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict
from kernelspan_agent.libraries.composer.installed import owner_of
from kernelspan_agent.libraries.gem.homes import Around, Homes
from kernelspan_agent.model import Origin
from kernelspan_agent.process.rootfs import MAX_DEPTH, MAX_PATH_BYTES, Root

RUNTIMES = ("ruby",)
MAX_PLACES = 1024  # directories remembered for one process
RECHECK_NS = 5_000_000_000
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_RUNTIME: Verdict = (Origin.RUNTIME, None)
_APP: Verdict = (Origin.APP, None)
_LIBRARY: Verdict = (Origin.LIBRARY, None)
_EVALUATED = re.compile(r"\(eval at (.*):\d+\)\Z", re.DOTALL)
_TYPED = ("-e", "-")
_RUBY = re.compile(r"libruby[-0-9.a-z]*\.so[.\d]*\Z|ruby[\d.]*\Z")


def make(clock: Clock) -> GemManager:
    """The manager, with nothing read yet."""
    return GemManager(clock)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of the files of one directory."""

    real: str  # where the directory really is
    around: Around
    at_ns: int


class GemManager:
    """Origin, name and version of Ruby's files, from the specifications that the process's own files hold."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._homes = Homes()

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, an iseq's path or a library of C functions, is."""
        for _ in range(8):
            match = _EVALUATED.match(file)
            if match is None:
                break
            file = match[1]
        if file.startswith("<internal:"):
            return _RUNTIME
        if file in _TYPED:
            return _APP
        if not file or len(file) > MAX_PATH_BYTES or "\0" in file or file.startswith("(eval"):
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
        """The gem homes around these files, and how many gems each has. Raises OSError."""
        found: dict[str, int] = {}
        for directory in dict.fromkeys(file.rpartition("/")[0] for file in files if file.startswith("/")):
            for packages in self._place(directory or "/", context).around.homes:
                found[packages.place] = len(set(packages.by_path.values()))
        return found

    def _classify_path(self, file: str, context: LibraryContext) -> Verdict:
        directory, _, name = file.rpartition("/")
        if _RUBY.match(name):
            return _RUNTIME
        place = self._place(directory or "/", context)
        around = place.around
        for packages in around.homes:
            for path in dict.fromkeys((f"{place.real}/{name}", file)):
                found, library = owner_of(packages, path)
                if found:
                    return Origin.LIBRARY, library
        if around.own:
            return _RUNTIME
        if around.vendor:  # RubyGems itself, which Debian has there, is Ruby's own
            below = f"{place.real}/{name}".removeprefix(f"{around.vendor}/")
            return _RUNTIME if below == "rubygems.rb" or below.startswith("rubygems/") else _LIBRARY
        with Root(context.root) as root:
            entry = root.find(file)
        return _APP if entry is not None and entry.is_file and ".so" not in name else _UNKNOWN

    def _place(self, directory: str, context: LibraryContext) -> _Place:
        now_ns = self._clock()
        noted = context.notes.get(directory)
        if isinstance(noted, _Place) and 0 <= now_ns - noted.at_ns < RECHECK_NS:
            return noted
        with Root(context.root) as root:
            entry = root.find(directory)
            real = entry.path if entry is not None else directory
            around = self._homes.around(root, list(dict.fromkeys((*_upwards(real), *_upwards(directory)))))
        if len(context.notes) >= MAX_PLACES:
            context.notes.clear()
        place = context.notes[directory] = _Place(real, around, now_ns)
        return place


def _upwards(directory: str) -> list[str]:
    """The directory and those that it lies in."""
    found = [directory]
    while found[-1] not in {"", "/"} and len(found) < MAX_DEPTH:
        found.append(found[-1].rpartition("/")[0] or "/")
    return found
