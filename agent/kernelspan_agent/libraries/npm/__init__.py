# SPDX-License-Identifier: Apache-2.0
"""Node.js: packages as npm, pnpm and yarn install them, by the package.json nearest to a file.

A package is what lies below `node_modules/NAME`, wherever that is: npm's and yarn's trees, pnpm's
`node_modules/.pnpm/NAME@VERSION/node_modules/NAME`, yarn's archives (`.yarn/cache/….zip/node_modules/NAME`), and Debian's
/usr/share/nodejs/NAME. What it is called and its version are what its own package.json says. A file outside of all of them is
the application's, a package of the application's own workspace too. Names that Node.js makes up: `node:…` and
`[native code]` are the runtime's, `[eval]` and the like the user's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict
from kernelspan_agent.libraries.npm.packages import Archive, Manifests
from kernelspan_agent.model import Library, Origin
from kernelspan_agent.process.rootfs import MAX_DEPTH, MAX_PATH_BYTES, Root

RUNTIMES = ("nodejs",)
MAX_PLACES = 1024  # directories remembered for one process
MAX_SITES, MAX_NAMES = 64, 4096
RECHECK_NS = 5_000_000_000
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_RUNTIME: Verdict = (Origin.RUNTIME, None)
_APP: Verdict = (Origin.APP, None)
_TYPED = re.compile(r"\[(?:worker )?eval\d*\]|\[stdin\]|REPL\d+")
_VIRTUAL = re.compile(r"/\.yarn/(?:__virtual__|\$\$virtual)/[^/]+/(\d{1,2})/")
MODULES = "node_modules"
_DEBIAN = re.compile(r"/usr/(?:share|lib|lib/[^/]+)/nodejs\Z")


def make(clock: Clock) -> NpmManager:
    """The manager, with nothing read yet."""
    return NpmManager(clock)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of the files of one directory."""

    real: str  # where the directory really is
    is_package: bool
    library: Library | None
    archive: bool
    at_ns: int


class NpmManager:
    """Origin, name and version of JavaScript files, from the metadata that the process's own files hold."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._manifests = Manifests()

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, a script's name or the path of its URL, is."""
        if file.startswith("node:") or file == "[native code]":
            return _RUNTIME
        if _TYPED.fullmatch(file):
            return _APP
        if not file.startswith("/") or len(file) > MAX_PATH_BYTES or "\0" in file:
            return _UNKNOWN
        try:
            return self._classify_path(file, context)
        except OSError:  # the process's root is gone
            return _UNKNOWN

    def sites(self, files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """The folders of packages around these files and below prefixes, and how many packages each has. Raises OSError."""
        wanted: dict[str, None] = {f"{prefix.rstrip('/')}/lib/{MODULES}": None for prefix in prefixes}
        for directory in dict.fromkeys(file.rpartition("/")[0] for file in files if file.startswith("/")):
            for at in _upwards(directory):
                wanted[at if at.endswith(f"/{MODULES}") else f"{at.rstrip('/')}/{MODULES}"] = None
        found: dict[str, int] = {}
        with Root(context.root) as root:
            for path in wanted:
                names = root.names(path, MAX_NAMES) if len(found) < MAX_SITES else []
                count = sum(
                    len(root.names(f"{path}/{name}", MAX_NAMES)) if name.startswith("@") else not name.startswith(".")
                    for name in names
                )
                if count:
                    found[path] = count
        return found

    def _classify_path(self, file: str, context: LibraryContext) -> Verdict:
        file = _devirtualised(file)
        directory, _, name = file.rpartition("/")
        place = self._place(directory or "/", context)
        if place.is_package:
            return Origin.LIBRARY, place.library
        if place.archive:
            return _UNKNOWN
        with Root(context.root) as root:
            entry = root.find(f"{place.real}/{name}")
        return _APP if entry is not None and entry.is_file else _UNKNOWN

    def _place(self, directory: str, context: LibraryContext) -> _Place:
        now_ns = self._clock()
        noted = context.notes.get(directory)
        if isinstance(noted, _Place) and 0 <= now_ns - noted.at_ns < RECHECK_NS:
            return noted
        if len(context.notes) >= MAX_PLACES:
            context.notes.clear()
        with Root(context.root) as root:
            place = context.notes[directory] = self._look(root, directory, now_ns)
        return place

    def _look(self, root: Root, directory: str, now_ns: int) -> _Place:
        entry = root.find(directory)
        if entry is None and (archive := Archive.around(root, directory)) is not None:
            package = package_of(archive.inside(directory))
            library = self._manifests.in_archive(root, archive, package) if package else None
            return _Place(directory, bool(package), library, True, now_ns)
        real = entry.path if entry is not None else directory
        package = package_of(real) or package_of(directory)
        library = self._manifests.at(root, package) if package else None
        return _Place(real, bool(package), library, False, now_ns)


def package_of(directory: str) -> str:
    """The directory of the package that a directory lies in, the innermost; empty: in none."""
    parts = directory.split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] != MODULES and not _DEBIAN.match("/".join(parts[: at + 1])):
            continue
        name = parts[at + 1 : at + 3] if parts[at + 1].startswith("@") else parts[at + 1 : at + 2]
        if parts[at + 1].startswith("."):  # pnpm's store, a tool's cache
            continue
        return "/".join(parts[: at + 1] + name)
    return ""


def _devirtualised(file: str) -> str:
    """Yarn's names for a package that is there once and stands for several: so many directories up is the real one."""
    while (match := _VIRTUAL.search(file)) is not None:
        base = file[: match.start()] + "/.yarn"
        for _ in range(int(match[1])):
            base = base.rpartition("/")[0]
        file = f"{base}/{file[match.end() :]}"
    return file


def _upwards(directory: str) -> list[str]:
    """The directory and those that it lies in."""
    found = [directory]
    while found[-1] not in {"", "/"} and len(found) < MAX_DEPTH:
        found.append(found[-1].rpartition("/")[0] or "/")
    return found
