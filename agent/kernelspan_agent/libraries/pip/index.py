# SPDX-License-Identifier: Apache-2.0
"""Reads which distribution owns which file of one directory: prefixes, not files.

A top-level package that one distribution alone fills is one entry. Where several meet (namespace packages, a common
`tests`), or where there is no `__init__` to make a directory one package, the entries go as deep as it takes to tell
them apart. A list of files (RECORD) is proof; a mere list of top-level names counts only where no list speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from kernelspan_agent.libraries.pip.claims import Claim, Owner, SiteIndex
from kernelspan_agent.libraries.pip.metadata import (
    is_editable,
    listed_files,
    merge_libraries,
    read_library,
    source_files,
    top_levels,
)
from kernelspan_agent.libraries.pip.trees import Tree
from kernelspan_agent.model import Library
from kernelspan_agent.process.rootfs import MAX_DEPTH

MAX_DISTRIBUTIONS = 2048
MAX_CLAIMS = 100_000  # entries of one index; what is beyond them belongs to nobody known
_METADATA = (".dist-info", ".egg-info")
_SCRIPTS = "../../../bin/"  # from a site directory


_Node = dict[str, "Owner | _Node"]
Lists = dict[str, list[str]]
"""Files of distributions by the name of their metadata, where another package manager installed them."""
OtherLists = Callable[[frozenset[str]], Lists]
"""Asked with those names once; the files count where a distribution lists none itself, the scripts always."""


@dataclass(slots=True)
class _Distribution:
    folder: str
    owner: Owner
    editable: bool
    listed: bool
    tops: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Top:
    """A name at the top of the directory, after the first pass."""

    owner: Owner
    distribution: str
    shared: bool = False
    package: bool = False  # has an __init__: all below it is one package
    file: bool = False


@dataclass(slots=True)
class _Building:
    tree: Tree
    lists: Lists
    tops: dict[str, _Top] = field(default_factory=dict)
    scripts: dict[str, Owner] = field(default_factory=dict)


def no_lists(_folders: frozenset[str]) -> Lists:
    """What is known where no other package manager installs distributions."""
    return {}


def build_index(
    tree: Tree, other_lists: OtherLists = no_lists, *, by_name: bool, now_ns: int = 0, settle_ns: int = 0
) -> SiteIndex:
    """Reads the metadata of all distributions of a directory: each list once, twice where packages are shared.

    `by_name`: whether mere top-level names count; in a working copy an egg-info has them, and installs nothing.
    `settle_ns`: how long ago the last change must be for the index to be `settled`.
    """
    # A leading `~` is what pip leaves of a removal that failed.
    names = [name for name in tree.names() if name.endswith(_METADATA) and not name.startswith("~")]
    distributions = [_distribution(tree, name) for name in names[:MAX_DISTRIBUTIONS]]
    building = _Building(tree, other_lists(frozenset(names)) if names else {})
    for distribution in distributions:
        _first_pass(building, distribution)
    claims = _exact_claims(building, distributions)
    if by_name:
        _add_names(building, distributions, claims)
    newest_ns = max(tree.changed_ns(name) for name in ["", *names])
    return SiteIndex(claims, building.scripts, bool(names), settled=not 0 <= now_ns - newest_ns < settle_ns)


def _distribution(tree: Tree, folder: str) -> _Distribution:
    owner = read_library(tree, folder) or Claim.UNCLEAR
    return _Distribution(folder, owner, is_editable(tree, folder), listed_files(tree, folder) is not None)


def _files(building: _Building, distribution: _Distribution) -> Iterator[str] | None:
    if distribution.listed:
        return listed_files(building.tree, distribution.folder)
    listed = building.lists.get(distribution.folder)
    return None if listed is None else iter(listed)


def _first_pass(building: _Building, distribution: _Distribution) -> None:
    script_owner = Claim.SOURCE if distribution.editable else distribution.owner
    for path in building.lists.get(distribution.folder, ()):
        _add_script(building, path, script_owner)
    for path in _files(building, distribution) or ():
        top, slash, rest = path.partition("/")
        _add_script(building, path, script_owner)
        if _is_no_code(top, path) or len(building.tops) == MAX_CLAIMS:
            continue
        distribution.tops.add(top)
        known = building.tops.setdefault(top, _Top(distribution.owner, distribution.folder))
        known.shared |= known.distribution != distribution.folder
        known.package |= _is_init(rest)
        known.file |= not slash


def _add_script(building: _Building, path: str, owner: Owner) -> None:
    name = path.removeprefix(_SCRIPTS)
    if name != path and "/" not in name and len(building.scripts) < MAX_CLAIMS:
        building.scripts[name] = _merge(building.scripts.get(name, owner), owner)


def _exact_claims(building: _Building, distributions: list[_Distribution]) -> dict[str, Owner]:
    claims: dict[str, Owner] = {}
    open_tops: set[str] = set()
    for name, top in building.tops.items():
        if top.shared or not (top.package or top.file):
            open_tops.add(name)
        else:
            claims[name] = top.owner
    for distribution in distributions:
        if distribution.editable:
            own = [name for name, top in building.tops.items() if top.distribution == distribution.folder]
            claims.update((name, Claim.SOURCE) for name in own if building.tree.is_link(name))
    _flatten(_second_pass(building, distributions, open_tops), "", claims)
    return claims


def _second_pass(building: _Building, distributions: list[_Distribution], tops: set[str]) -> _Node:
    """The files below `tops` as nested dictionaries."""
    trie: _Node = {}
    left = MAX_CLAIMS
    for distribution in distributions:
        if tops.isdisjoint(distribution.tops):
            continue
        for path in _files(building, distribution) or ():
            if path.partition("/")[0] not in tops or _is_no_code("", path):
                continue
            left -= 1
            if left < 0:
                return trie
            _insert(trie, path.split("/"), distribution.owner)
    return trie


def _insert(node: _Node, parts: list[str], owner: Owner) -> None:
    if len(parts) > MAX_DEPTH:
        return
    for part in parts[:-1]:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):  # a file by that name is listed too: one of the two lists is wrong
            node[part] = Claim.UNCLEAR
            return
        node = below
    known = node.get(parts[-1], owner)
    node[parts[-1]] = Claim.UNCLEAR if isinstance(known, dict) else _merge(known, owner)


def _flatten(node: _Node, prefix: str, claims: dict[str, Owner]) -> None:
    for name, below in node.items():
        path = prefix + name
        if path in claims:
            continue
        if not isinstance(below, dict):
            claims[path] = below
        elif (sole := _sole_owner(below)) is not None and any(_is_init(child) for child in below):
            claims[path] = sole
        else:
            claims[path] = Claim.DEEPER
            _flatten(below, f"{path}/", claims)


def _sole_owner(node: _Node) -> Owner | None:
    sole: Owner | None = None
    for below in node.values():
        owner = _sole_owner(below) if isinstance(below, dict) else below
        if owner is None or (sole is not None and owner != sole):
            return None
        sole = owner
    return sole


def _add_names(building: _Building, distributions: Iterable[_Distribution], claims: dict[str, Owner]) -> None:
    """Top-level names of distributions that list no files."""
    named: dict[str, Owner] = {}
    trie: _Node = {}
    for distribution in distributions:
        if distribution.listed:
            continue
        tops, namespaces = top_levels(building.tree, distribution.folder)
        for top in tops - namespaces:
            named[top] = _merge(named.get(top, distribution.owner), distribution.owner)
        for path in islice(source_files(building.tree, distribution.folder, tops & namespaces), MAX_CLAIMS):
            _insert(trie, path.split("/"), distribution.owner)
    for top, owner in named.items():
        # The name of a package or of a module: of the two and of an extension's suffixes only one can be there.
        for name in (top, f"{top}.py"):
            claims.setdefault(name, owner)
    _flatten({name: below for name, below in trie.items() if name not in claims}, "", claims)


def _merge(one: Owner, other: Owner) -> Owner:
    if one is other:
        return one
    if isinstance(one, Library) and isinstance(other, Library):
        return merge_libraries(one, other) or Claim.UNCLEAR
    return Claim.UNCLEAR


def _is_no_code(top: str, path: str) -> bool:
    return top.endswith(_METADATA) or path.endswith(".pyi") or path.startswith("..") or path == "."


def _is_init(name: str) -> bool:
    return name == "__init__.py" or (name.startswith("__init__.") and name.endswith(".so"))
