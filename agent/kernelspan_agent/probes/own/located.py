# SPDX-License-Identifier: Apache-2.0
"""Where each argument of a probe lies, at each of the places that it begins at; refuses what is no value of its type."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.ktypes import Leaf, Resolved
from kernelspan_agent.probes.own.paths import along
from kernelspan_agent.probes.own.sources import NOWHERE, ArgumentError, Raw, Source
from kernelspan_agent.resolve.arguments import NUMBERS
from kernelspan_api.conditions import ArgumentType
from kernelspan_api.userprobes import Argument

_ENTRY = "dentry"
_STRUCTS = {ArgumentType.FILE: ("file",), ArgumentType.PATH: ("path", _ENTRY)}  # that an argument of the type leads to
_STRUCT = re.compile(r"(?:const |volatile )*struct (\w+)(?: ?\*)?(?: ?const| ?volatile)*")


@dataclass(frozen=True, slots=True)
class Places:
    """What a probe is attached to: at entry (or for an event), and at return; several where arguments lie differently.

    `type_of`: what the kernel says of an argument; None: nothing.
    """

    enters: Sequence[Source]
    exits: Sequence[Source] = ()
    type_of: Callable[[Argument], Leaf | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Located:
    """The arguments of one probe."""

    places: Places
    resolve: Callable[[Leaf, str], Resolved]

    def raw(self, source: Source, argument: Argument) -> Raw:
        """As it lies at that place; NOWHERE if only at another. Raises ArgumentError."""
        try:
            return self._raw(source, argument)
        except ArgumentError:
            for other in self.places.enters:
                if other is not source:
                    with contextlib.suppress(ArgumentError):
                        self._raw(other, argument)
                        return NOWHERE
            raise

    def _raw(self, source: Source, argument: Argument) -> Raw:
        raw = source.named(argument.field) if argument.field is not None else source.argument(argument.index or 0)
        settled = raw.user or raw.inline or argument.type in NUMBERS or source.kind == bpf.PROG_TRACEPOINT
        leads = argument.type in _STRUCTS and not raw.user
        if not argument.resolve and settled and not leads:
            return raw
        start = self.places.type_of(argument)
        if not argument.resolve:
            user = raw.user if settled else start is not None and start.user
            return replace(raw, user=user, entry=leads and _is_entry(argument.type, start))
        if start is None:
            raise ArgumentError(f"resolve {argument.resolve}: the kernel says nothing of this argument's type")
        way = self.resolve(start, argument.resolve)
        found = along(raw, way)
        return replace(found, entry=_is_entry(argument.type, way.leaf)) if argument.type in _STRUCTS else found

    def user(self, argument: Argument) -> bool:
        """Whether the program itself has passed it."""
        return self.raw(self.places.enters[0], argument).user


def _is_entry(wanted: ArgumentType, found: Leaf | None) -> bool:
    """Whether a File or Path is an entry of a directory. Raises ArgumentError: by its type in the kernel it is something else."""
    if found is None or (match := _STRUCT.fullmatch(found.text)) is None:
        return False  # nothing is known of it: void *, a number
    name = match[1]
    if name in _STRUCTS[wanted]:
        return name == _ENTRY
    better = next((kind.value for kind, names in _STRUCTS.items() if name in names), "")
    hint = f"type {better} is for that" if better else "follow its members to one by resolve"
    raise ArgumentError(f"{found.text} is no {wanted.value}, which is a struct {' or '.join(_STRUCTS[wanted])}: {hint}")
