# SPDX-License-Identifier: Apache-2.0
"""Whose code a Go function is, by the modules that the program itself lists (`go version -m` shows the same).

A function's name begins with its package's path, and a package belongs to the listed module whose path is the longest
beginning of its own. What no module owns and has no dot in its first part is the standard library's: Go takes no other path of
that form. `replace` puts another module in a module's place: its name and version are those that count; one replaced by a
directory keeps its name and has no version. Where a program lists no module at all (one file, an old GOPATH, another build
tool), `package main` is its own, and the standard library is what lies where package runtime does.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from functools import lru_cache

from kernelspan_agent.model import Library, Origin
from kernelspan_agent.runtimes.registry import Verdict

MAX_MODULES = 16384
_MAX_PACKAGES = 4096
_ESCAPED = re.compile(r"%([0-9a-f]{2})")
_APP: Verdict = (Origin.APP, None)
_RUNTIME: Verdict = (Origin.RUNTIME, None)
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_LOCAL = "(devel)"
_CGO_FILE = "_cgo_gotypes.go"  # what cgo makes between Go and C


@dataclass(frozen=True, slots=True)
class Modules:
    """A program's modules: `main` its own (empty: it does not say), `libraries` by the path that packages are found by."""

    main: str = ""
    libraries: dict[str, Library] = field(default_factory=dict)

    @property
    def listed(self) -> bool:
        """Whether the program lists any."""
        return bool(self.main or self.libraries)

    @classmethod
    def read(cls, text: str) -> Modules:
        """From BuildInfo.modules. Lines that are none of Go's are passed over."""
        main, last, libraries = "", "", dict[str, Library]()
        for line in text.split("\n"):
            kind, *parts = line.split("\t")
            if kind == "mod" and parts:
                main, last = parts[0], ""
            elif kind == "dep" and parts and len(libraries) < MAX_MODULES:
                last = parts[0]
                libraries[last] = _library(last, parts[1] if len(parts) > 1 else "")
            elif kind == "=>" and last and parts:
                by, version = parts[0], parts[1] if len(parts) > 1 else ""
                libraries[last] = _library(last if by.startswith((".", "/")) or not version else by, version)
        return cls(main, libraries)

    def owner(self, package: str, file: str, root: str) -> Verdict:
        """Whose a package is: its path as the source has it. `file`: of the function; `root`: where runtime's folder is."""
        package = package.removesuffix("_test")
        if file == _CGO_FILE:
            return _RUNTIME
        if package == "main" or package.startswith("main."):
            return _APP
        at = package
        while at:
            if at == self.main:
                return _APP
            if (library := self.libraries.get(at)) is not None:
                return Origin.LIBRARY, library
            at = at.rpartition("/")[0]
        if not self.listed:
            is_standard = file.startswith(f"{root}/") if root else package == "runtime"
            return _RUNTIME if is_standard else _UNKNOWN
        return _RUNTIME if "." not in package.partition("/")[0] else _UNKNOWN


@lru_cache(_MAX_PACKAGES)
def package_of(function: str) -> str:
    """The path of a function's package, as the source has it; empty: it is of none (the linker's, C's).

    A name is the path, a dot, and the rest; dots in the path's last part are escaped (cmd/internal/objabi, PathToPrefix).
    Types in brackets and receivers come behind.
    """
    if function.startswith(("type:", "type..", "go:")) or (function.startswith("_") and "/" not in function):
        return ""
    name = re.split(r"[\[({]", function, maxsplit=1)[0]
    folder, slash, rest = name.rpartition("/")
    last, dot, _ = rest.partition(".")
    if not dot:
        return ""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), f"{folder}{slash}{last}")


def _library(name: str, version: str) -> Library:
    version = "" if version == _LOCAL else version
    purl = "pkg:golang/" + urllib.parse.quote(name.lower(), safe="/.-_~")
    return Library(name, version, f"{purl}@{urllib.parse.quote(version, safe='.-_~')}" if version else purl)
