# SPDX-License-Identifier: Apache-2.0
"""Whose code a file is, asked of the library manager of the process's runtime.

A manager is a module or package of this folder with `RUNTIMES`, the runtimes whose files it knows, and `make`, which
returns a `LibraryManager`; nothing else has to be told of it. What nobody can prove is `Origin.UNKNOWN`. What a profile's
`appPaths` and `libraryPaths` claim is decided afterwards, for each profile: `claim`.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import kernelspan_agent.libraries as package
from kernelspan_agent.model import Library, Origin

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process

Clock = Callable[[], int]
"""Unix epoch in nanoseconds."""

Verdict = tuple[Origin, Library | None]


@dataclass(frozen=True, slots=True, eq=False)
class LibraryContext:
    """What decides whose code the files of one process are: one object a process, kept as long as the process.

    `root`: the path that its `/` has for us, mostly `/proc/PID/root`. `version`: of the runtime; empty: not known.
    `cwd`: the directory that relative file names start from, in the process's terms; empty: not known. `process`: it itself, which
    may have ended; None: it had before anybody could look.
    """

    runtime: str
    root: str = "/"
    version: tuple[int, ...] = ()
    cwd: str = ""
    process: Process | None = None
    notes: dict[str, object] = field(default_factory=dict, init=False, repr=False)  # the manager's, bounded by it


class LibraryManager(Protocol):
    """Knows the files of one package manager."""

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose code `file`, named as the runtime names it, is. Raises nothing for whatever the files hold."""

    def sites(self, files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """Directories with packages around files in use and where the runtime looks below prefixes of installations, each
        with how many packages it has. Raises OSError: the root is gone.
        """


class Libraries:
    """All managers, each made at the first file of its runtime. One object an agent: managers cache."""

    def __init__(self, clock: Clock = time.time_ns) -> None:
        self._clock = clock
        self._managers: dict[str, LibraryManager | None] = {}

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """The origin of `file` and, for `Origin.LIBRARY`, the library where it is known."""
        manager = self._manager(context.runtime)
        return manager.classify(file, context) if manager else (Origin.UNKNOWN, None)

    def sites(self, files: Sequence[str], prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """Directories with packages, and how many: see LibraryManager."""
        manager = self._manager(context.runtime)
        return manager.sites(files, prefixes, context) if manager else {}

    def _manager(self, runtime: str) -> LibraryManager | None:
        if runtime not in self._managers:
            self._managers[runtime] = _make_manager(runtime, self._clock)
        return self._managers[runtime]


def claim(verdict: Verdict, file: str, app_paths: Sequence[str], library_paths: Sequence[str]) -> Verdict:
    """Whose code a profile says a file is: its `appPaths` before what a manager says, `libraryPaths` before "app"."""
    if any(matches_glob(file, glob) for glob in app_paths):
        return Origin.APP, None
    if verdict[0] is not Origin.LIBRARY and any(matches_glob(file, glob) for glob in library_paths):
        return Origin.LIBRARY, None
    return verdict


def matches_glob(file: str, glob: str) -> bool:
    """Whether the absolute path `file` is meant by `glob`.

    `*`, `?` and `[...]` stay within one component, a component `**` stands for any number of them. A glob whose last
    component is a plain name means the file or directory of that name, and so all that is below it.
    """
    if not file.startswith("/"):
        return False
    wanted = [part for part in glob.split("/") if part]
    if wanted and not any(sign in wanted[-1] for sign in "*?["):
        wanted.append("**")
    return _matches([part for part in file.split("/") if part], wanted)


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    # Row by row over the wanted components: reached[i] says that the first i parts are matched. Never exponential.
    reached = [True] + [False] * len(parts)
    for want in wanted:
        if want == "**":
            first = reached.index(True) if True in reached else len(reached)
            reached = [index >= first for index in range(len(reached))]
        else:
            reached = [False] + [reached[index] and fnmatch.fnmatchcase(part, want) for index, part in enumerate(parts)]
    return reached[-1]


def _make_manager(runtime: str, clock: Clock) -> LibraryManager | None:
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if runtime in getattr(module, "RUNTIMES", ()):
            manager: LibraryManager = module.make(clock)
            return manager
    return None
