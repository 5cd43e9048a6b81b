# SPDX-License-Identifier: Apache-2.0
"""Gem homes and Ruby's own folders around a file, each read once and shared by all processes that see the same unchanged one.

Ruby's own folder is named after its interface (`3.1.0`) and has the default gems' specifications in the gem home of that
name beside it; the folder of its extensions has `rbconfig.rb`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.libraries.composer.installed import Packages
from kernelspan_agent.libraries.deb.lists import INFO

from .debian import read_lists
from .specs import BUNDLED, DEFAULT, SPECIFICATIONS, read_defaults, read_home

if TYPE_CHECKING:
    from kernelspan_agent.process.rootfs import Root

MAX_HELD = 128
MAX_WEIGHT = 200_000  # entries of all together
_ABI = re.compile(r"\d{1,2}\.\d{1,2}\.\d{1,2}\Z")
_CONFIG = "rbconfig.rb"
_PLACED = re.compile(r"/(?:vendor_ruby|site_ruby)(?:/\d+\.\d+\.\d+)?\Z")
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a directory. `own`: Ruby's own folder it lies in; empty: none."""

    homes: tuple[Packages, ...]
    own: str = ""
    vendor: str = ""  # where a distribution puts libraries of others, which it lies in


class Homes:
    """The bounded cache. One object a manager."""

    def __init__(self) -> None:
        self._held: OrderedDict[_Key, Packages] = OrderedDict()
        self._weight = 0

    def around(self, root: Root, directories: list[str]) -> Around:
        """What stands in these directories, the innermost first."""
        found: list[Packages] = []
        own = ""
        for at in directories:
            base = at.rstrip("/")
            found += self._home(root, base)
            name = base.rpartition("/")[2]
            if not own and _is_own(root, base, name):
                own = base
                found += self._defaults(root, base, name)
        vendor = "" if own else next((at for at in directories if _PLACED.search(at)), "")
        if vendor:
            key = _key(root, INFO)
            found += [self._get(("lists", vendor, key), lambda: read_lists(root, vendor))] if key is not None else []
        return Around(tuple(found), own, vendor)

    def __len__(self) -> int:
        return len(self._held)

    def _home(self, root: Root, base: str) -> list[Packages]:
        keys = [_key(root, f"{base}/{each}") for each in (SPECIFICATIONS, BUNDLED)]
        if all(key is None for key in keys) or (_key(root, f"{base}/gems") is None and keys[1] is None):
            return []
        return [self._get(("home", base, *keys), lambda: read_home(root, base))]

    def _defaults(self, root: Root, base: str, name: str) -> list[Packages]:
        """Of Ruby's own folder or that of its extensions, which Debian has elsewhere and others within."""
        abi = name if _ABI.match(name) else base.rpartition("/")[0].rpartition("/")[2]
        if not _ABI.match(abi):
            return []
        parent = base[: base.rindex(f"/{abi}")]
        for prefix in dict.fromkeys((parent, re.sub(r"/lib/[a-z0-9_]+-linux-[a-z0-9_]+/ruby\Z", "/lib/ruby", parent))):
            home, library_folder = f"{prefix}/gems/{abi}", f"{prefix}/{abi}"
            key = _key(root, f"{home}/{DEFAULT}")
            if key is not None:
                return [
                    self._get(("own", base, key), lambda: read_defaults(root, home, library_folder, base))  # noqa: B023
                ]
        return []

    def _get(self, key: _Key, read: Callable[[], Packages]) -> Packages:
        packages = self._held.get(key)
        if packages is None:
            packages = self._held[key] = read()
            self._weight += packages.weight
            while len(self._held) > 1 and (len(self._held) > MAX_HELD or self._weight > MAX_WEIGHT):
                _, gone = self._held.popitem(last=False)
                self._weight -= gone.weight
        else:
            self._held.move_to_end(key)
        return packages


def _is_own(root: Root, base: str, name: str) -> bool:
    if root.find(f"{base}/{_CONFIG}") is not None:
        return True
    return bool(_ABI.match(name)) and root.find(f"{base.rpartition('/')[0]}/gems/{name}/{DEFAULT}") is not None


def _key(root: Root, path: str) -> object:
    entry = root.find(path)
    return entry.key if entry is not None and entry.is_directory else None
