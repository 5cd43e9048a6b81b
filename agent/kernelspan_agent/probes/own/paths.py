# SPDX-License-Identifier: Apache-2.0
"""C for the way from an argument along a path of struct members (`memberpath`)."""

from __future__ import annotations

from kernelspan_agent.probes.ktypes import LeafKind, Resolved
from kernelspan_agent.probes.own.sources import PLACE, ArgumentError, Raw

_INLINE = {LeafKind.STRING, LeafKind.ARRAY}
_SIZES = (1, 2, 4, 8)


def along(raw: Raw, way: Resolved) -> Raw:
    """What lies at the end of the way. Raises ArgumentError where it is no value that can be read."""
    if not way.steps:
        return raw
    address = f"({raw.c})"
    for step in way.steps:
        follow = "ks_own_follow" if step.dereference else "ks_own_place_at"
        whose = f", {int(step.user)}" if step.dereference else ""
        address = f"{follow}({address}, {step.offset}{whose})"
    leaf, user = way.leaf, way.steps[-1].user
    if leaf.kind in _INLINE:
        return Raw(address, inline=True, length=str(leaf.size), user=user)
    if leaf.kind is LeafKind.STRUCT:
        return Raw(address, user=user)
    if leaf.size not in _SIZES or leaf.kind in (LeafKind.FLOAT, LeafKind.VOID, LeafKind.FUNCTION):
        raise ArgumentError(f"{leaf.text} is nothing that can be read as a value")
    value = f"ks_own_load(&{PLACE}, {leaf.size}, {int(user)})"
    if leaf.bit_size:
        shift = 64 - leaf.bit_size
        moved = f"({value} >> {leaf.bit_offset}) << {shift}"
        return Raw(f"((u64)((s64)({moved}) >> {shift}))" if leaf.signed else f"(({moved}) >> {shift})", place=address)
    signed = f"(u64)(s64)(s{8 * leaf.size})" if leaf.signed else ""
    return Raw(f"{signed}{value}", user=user or leaf.user, place=address)
