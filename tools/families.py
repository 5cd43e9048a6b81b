# SPDX-License-Identifier: Apache-2.0
"""Which tools there are: one folder a family, described by its `family.toml`.

A family is one Go module (or a few that build one thing), because the dependency graphs of unrelated programs clash in
one go.mod. Adding a family is adding a folder; nothing else names it.

family.toml:
    generate = [[command, ...]]     run in a copy of the folder before the build; may not change a pinned file
    update   = [[command, ...]]     run in a copy of the folder to renew go.mod and go.sum
    tags     = [build tags]         of every program of the family
    ldflags  = "added to -s -w"     of every program of the family
    [binaries.NAME]
    package = "import/path" or "."
    tags    = [more build tags]
    ldflags = "more flags"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.errors import ToolError

TOOLS_FOLDER = Path(__file__).resolve().parent
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_Flags = tuple[tuple[str, ...], str]  # build tags, linker flags


@dataclass(frozen=True, slots=True)
class Binary:
    """One program of a family and how `go build` makes it."""

    name: str
    package: str
    tags: tuple[str, ...] = ()
    ldflags: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One folder below tools/: programs built together from one set of pinned modules."""

    name: str
    folder: Path
    binaries: tuple[Binary, ...]
    generate: tuple[tuple[str, ...], ...] = ()
    update: tuple[tuple[str, ...], ...] = ()


def load_families(tools_folder: Path = TOOLS_FOLDER) -> tuple[Family, ...]:
    """Every family below the folder, by name. Raises ToolError for a bad description or a binary described twice."""
    families = tuple(_load(path) for path in sorted(tools_folder.glob("*/family.toml")))
    owners: dict[str, str] = {}
    for family in families:
        for binary in family.binaries:
            if binary.name in owners:
                raise ToolError(f"{binary.name} is described by both {owners[binary.name]} and {family.name}")
            owners[binary.name] = family.name
    return families


def select(families: tuple[Family, ...], names: tuple[str, ...]) -> tuple[Family, ...]:
    """The families that the names (of families or binaries) mean; all of them for no names."""
    known = {name for family in families for name in (family.name, *(b.name for b in family.binaries))}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ToolError(f"no such tool: {', '.join(unknown)}", hint=f"known: {', '.join(sorted(known))}")
    if not names:
        return families
    return tuple(f for f in families if f.name in names or any(b.name in names for b in f.binaries))


def _load(path: Path) -> Family:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToolError(f"{path}: {error}") from error
    _no_others(path, table, {"generate", "update", "tags", "ldflags", "binaries"})
    binaries = table.get("binaries")
    if not isinstance(binaries, dict) or not binaries:
        raise ToolError(f"{path}: [binaries.NAME] must describe at least one program")
    shared = _flags(f"{path}: ", table)
    return Family(
        name=path.parent.name,
        folder=path.parent,
        binaries=tuple(_binary(path, name, entry, shared) for name, entry in binaries.items()),
        generate=_commands(path, "generate", table),
        update=_commands(path, "update", table),
    )


def _binary(path: Path, name: str, entry: object, shared: _Flags) -> Binary:
    where = f"{path}: binaries.{name}"
    if not _NAME.fullmatch(name):
        raise ToolError(f"{where}: a name must be lower-case letters, digits, dots and dashes")
    if not isinstance(entry, dict):
        raise ToolError(f"{where}: must be a table")
    _no_others(where, entry, {"package", "tags", "ldflags"})
    package = entry.get("package")
    if not isinstance(package, str) or not package:
        raise ToolError(f"{where}.package: must be an import path or '.'")
    tags, ldflags = _flags(f"{where}.", entry)
    return Binary(name, package, shared[0] + tags, f"{shared[1]} {ldflags}".strip())


def _flags(where: str, table: Mapping[str, object]) -> _Flags:
    ldflags = table.get("ldflags", "")
    if not isinstance(ldflags, str):
        raise ToolError(f"{where}ldflags: must be a string")
    return _strings(f"{where}tags", table.get("tags", [])), ldflags


def _commands(path: Path, key: str, table: Mapping[str, object]) -> tuple[tuple[str, ...], ...]:
    commands = table.get(key, [])
    if not isinstance(commands, list):
        raise ToolError(f"{path}: {key}: must be a list of commands")
    parsed = tuple(_strings(f"{path}: {key}", command) for command in commands)
    if not all(parsed):
        raise ToolError(f"{path}: {key}: a command must not be empty")
    return parsed


def _strings(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ToolError(f"{where}: must be a list of strings")
    return tuple(value)


def _no_others(where: object, table: Mapping[str, object], allowed: set[str]) -> None:
    others = sorted(set(table) - allowed)
    if others:
        raise ToolError(f"{where}: unknown {', '.join(others)}", hint=f"allowed: {', '.join(sorted(allowed))}")
