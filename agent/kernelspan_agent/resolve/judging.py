# SPDX-License-Identifier: Apache-2.0
"""Conditions of own probes that only user space can decide: on the path of the executable, and on paths of files.

The kernel hands on which of a probe's match entries hold so far, as a mask; what is decided here of an image or a path it
is told, and then decides by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kernelspan_agent.resolve.arguments import PATHS
from kernelspan_api.conditions import ArgumentCondition, Operator

if TYPE_CHECKING:
    from kernelspan_agent.resolve.traced import TracedProcess
    from kernelspan_api.userprobes import UserProbe

IMAGE = 1 << 31  # in ks_own_question.of, with the process
_NUMERIC_ON_FD = {Operator.GREATER_THAN, Operator.LESS_THAN, Operator.IN_RANGE, Operator.MASK}
MAX_KNOWN = 16384


@dataclass(frozen=True, slots=True)
class Judged:
    """What of a probe is decided here. `arguments`: positions in its args."""

    image: bool
    arguments: tuple[int, ...]

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return self.image or bool(self.arguments)


def judged(spec: UserProbe) -> Judged:
    """What of a probe is decided here."""
    on_paths = {judged_argument(spec, condition) for match in spec.match for condition in match.args}
    return Judged(any(match.binaries for match in spec.match), tuple(sorted(at for at in on_paths if at is not None)))


def judged_argument(spec: UserProbe, condition: ArgumentCondition) -> int | None:
    """The position in its args of the path that a condition compares; None: it compares something else, such as the
    number of a descriptor.
    """
    for at, argument in enumerate(spec.args):
        if argument.index == condition.index and condition.resolve in ("", argument.resolve):
            on_path = argument.type in PATHS and condition.operator not in _NUMERIC_ON_FD
            return at if on_path and not all(_is_number(value) for value in condition.values) else None
    return None


def _is_number(text: str) -> bool:
    try:
        int(text, 0)
    except ValueError:
        return False
    return True


def text_holds(text: str, operator: str, values: Sequence[str]) -> bool:
    """Whether a text meets a condition; an argument that is no path is empty, and meets only negative ones."""
    positive = operator.removeprefix("Not")
    if positive in ("Equal", "In"):
        found = text in values
    elif positive == "Prefix":
        found = text.startswith(tuple(values))
    else:
        found = text.endswith(tuple(values))
    found = found and bool(text)
    return found is (positive == operator)


class Judge:
    """Decides for one profile's probes, which it knows by their numbers. Not for several threads."""

    def __init__(self, specs: Sequence[UserProbe], tell: Callable[[int, int, int, int], object]) -> None:
        """`tell`: tells the kernel: what about (an image's start, a path's id), the probe's number, of what, the mask."""
        self.is_needed = any(judged(spec).any for spec in specs)
        self._tell = tell
        self._known: dict[int, tuple[UserProbe, Judged]] = {}
        self._of_images = lru_cache(MAX_KNOWN)(self._image)
        self._of_paths = lru_cache(MAX_KNOWN)(self._path)

    def judged(self, spec: UserProbe, number: int) -> Judged:
        """What of a probe is decided here; to be asked before anything of that number is."""
        if number not in self._known:
            self._known[number] = spec, judged(spec)
        return self._known[number][1]

    def image(self, number: int, traced: TracedProcess) -> int:
        """The entries that hold for a process's executable; of one that is not known only those that do not ask."""
        executable = traced.executable
        if not executable:
            match = self._known[number][0].match
            return sum(1 << at for at, each in enumerate(match) if not each.binaries)
        return self._of_images(number, traced.tgid, traced.start_ns, executable)

    def _image(self, number: int, tgid: int, start_ns: int, executable: str) -> int:
        mask = sum(
            1 << at
            for at, match in enumerate(self._known[number][0].match)
            if all(text_holds(executable, each.operator.value, each.values) for each in match.binaries)
        )
        self._tell(start_ns, number, IMAGE | tgid, mask)
        return mask

    def path(self, number: int, at: int, path_id: int, text: str) -> int:
        """The entries that hold for the path of argument `at`; of one that has an id and no text only those that do not ask."""
        return self.unknown(number, at) if path_id and not text else self._of_paths(number, at, path_id, text)

    def unknown(self, number: int, at: int) -> int:
        """The entries that hold whatever argument `at` is: what is not known meets no condition, nor the opposite of one."""
        spec = self._known[number][0]
        return sum(
            1 << entry
            for entry, match in enumerate(spec.match)
            if not any(judged_argument(spec, each) == at for each in match.args)
        )

    def _path(self, number: int, at: int, path_id: int, text: str) -> int:
        mask = self._mask(number, at, text)
        self._tell(path_id, number, at, mask)
        return mask

    def _mask(self, number: int, at: int, text: str) -> int:
        spec = self._known[number][0]
        return sum(
            1 << entry
            for entry, match in enumerate(spec.match)
            if all(
                text_holds(text, each.operator.value, each.values)
                for each in match.args
                if judged_argument(spec, each) == at
            )
        )
