# SPDX-License-Identifier: Apache-2.0
"""Paths by their ids: a path travels from the kernel the first time it is seen, then as its id."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from kernelspan_agent.process.procfs import printable
from kernelspan_agent.ring.records import PATH_HEADER, PathFlag

MAX_PATHS = 16384  # as many as the kernel's ks_paths
REDACTED = "[redacted]"


def text_of(record: bytes) -> tuple[int, str, PathFlag]:
    """Id, text and flags of a PATH record. A path that does not reach the root has no leading slash."""
    header = np.frombuffer(record, PATH_HEADER, 1)[0]
    flags = PathFlag(int(header["flags"]))
    data = record[PATH_HEADER.itemsize : PATH_HEADER.itemsize + int(header["length"])]
    if flags & PathFlag.RAW:
        if data[:1] == b"\0" and len(data) > 1:  # an abstract unix socket
            return int(header["file"]), "@" + os.fsdecode(data[1:]), flags
        return int(header["file"]), os.fsdecode(data.split(b"\0", 1)[0]), flags
    names = [os.fsdecode(name) for name in data.split(b"\0") if name]
    if names and names[-1] == "/":  # the root of a file system that is mounted nowhere we can see
        names.pop()
    rooted = not flags & (PathFlag.UNREACHABLE | PathFlag.TRUNCATED)
    return int(header["file"]), ("/" if rooted else "") + "/".join(reversed(names)), flags


class PathTable:
    """Texts of the ids the kernel has sent, the least recently used going first."""

    def __init__(self, forget: Callable[[list[int]], None]) -> None:
        """`forget`: told which ids are no longer known here."""
        self._texts: OrderedDict[int, tuple[str, PathFlag]] = OrderedDict()
        self._forget = forget
        self._asked: set[int] = set()  # ids that are to be sent again

    def learn(self, record: bytes) -> None:
        """Takes in a PATH record."""
        number, text, flags = text_of(record)
        self._texts[number] = (text, flags)
        self._asked.discard(number)
        if len(self._texts) > MAX_PATHS:
            gone, _ = self._texts.popitem(last=False)
            self._forget([gone])

    def _get(self, number: int) -> tuple[str, PathFlag] | None:
        found = self._texts.get(number)
        if found is not None:
            self._texts.move_to_end(number)
        elif number and number not in self._asked:  # the kernel took it for known as it was forgotten
            if len(self._asked) >= MAX_PATHS:
                self._asked.clear()
            self._asked.add(number)
            self._forget([number])
        return found

    def resolve(self, file: int, path: int) -> str:
        """The path of an operation: of an open file, or as passed, joined to its directory. Empty: not known.

        `.` and `..` are left as the program wrote them: what they lead to depends on links.
        """
        base = self._get(file) if file else None
        if not path:
            return base[0] if base else ""
        given = self._get(path)
        if given is None:
            return ""
        text = given[0]
        if text.startswith(("/", "@")):
            return text
        if base is None:
            return ""
        return f"{base[0].rstrip('/')}/{text.removeprefix('./')}" if text else base[0]

    def rooted(self, file: int) -> str:
        """The path of a file where it is whole, from the process's root; else empty."""
        text = self.resolve(file, 0)
        return text if text.startswith("/") else ""

    def raw(self, path: int) -> str:
        """A path exactly as passed; empty: not known."""
        found = self._get(path)
        return found[0] if found else ""


class Redactor:
    """What of a path may leave the machine."""

    def __init__(self, redact: Iterable[str] = ()) -> None:
        """`redact`: regexes whose matches leave no trace."""
        self._redact = re.compile("|".join(f"(?:{each})" for each in redact)) if (redact := tuple(redact)) else None

    def shown(self, text: str) -> str:
        """A path as it may leave the machine: redacted, control characters escaped."""
        return printable(self._redact.sub(REDACTED, text) if self._redact else text)
