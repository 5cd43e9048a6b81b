# SPDX-License-Identifier: Apache-2.0
"""C for the way from an argument along a path of struct members (`memberpath`)."""

from __future__ import annotations

from kernelspan_agent.probes.ktypes import LeafKind, Resolved
from kernelspan_agent.probes.own.sources import ArgumentError, Raw

_INLINE = {LeafKind.STRING, LeafKind.ARRAY}
_SIZES = (1, 2, 4, 8)


def along(raw: Raw, way: Resolved) -> Raw:
    """What lies at the end of the way. Raises ArgumentError where it is no value that can be read."""
    if not way.steps:
        return raw
    address = f"({raw.c})"
    for step in way.steps:
        address = f"({address} + {step.offset})" if step.offset else address
        if step.dereference:
            address = f"{_read(step.user)}(u64, {address})"
    leaf, user = way.leaf, way.steps[-1].user
    if leaf.kind in _INLINE:
        return Raw(address, inline=True, length=str(leaf.size), user=user)
    if leaf.kind is LeafKind.STRUCT:
        return Raw(address, user=user)
    if leaf.size not in _SIZES or leaf.kind in (LeafKind.FLOAT, LeafKind.VOID, LeafKind.FUNCTION):
        raise ArgumentError(f"{leaf.text} is nothing that can be read as a value")
    value = f"{_read(user)}(u{8 * leaf.size}, {address})"
    if leaf.bit_size:
        shift = 64 - leaf.bit_size
        moved = f"((u64){value} >> {leaf.bit_offset}) << {shift}"
        return Raw(f"((u64)((s64)({moved}) >> {shift}))" if leaf.signed else f"(({moved}) >> {shift})")
    return Raw(f"(u64)(s64)(s{8 * leaf.size}){value}" if leaf.signed else f"(u64){value}", user=user or leaf.user)


def _read(user: bool) -> str:
    return "KS_UREAD" if user else "KS_KREAD"
