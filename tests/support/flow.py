# SPDX-License-Identifier: Apache-2.0
"""What a verifier before 5.15 calls a back-edge, though it allows loops: an instruction, no jump, that falls into a loop's head.

A walk over a program's instructions in the order of the kernel's own (kernel/bpf/verifier.c of 5.10: check_cfg), so that what
it refuses is known without it.
"""

from __future__ import annotations

import struct

_JUMP_CLASSES, _CLASS = (0x05, 0x06), 0x07
_EXIT, _CALL, _ALWAYS = 0x95, 0x85, 0x05
_WIDE = 0x18  # an instruction of two places


def back_edges(code: bytes) -> list[tuple[int, int]]:
    """Pairs of instructions: which falls, and into which it must not."""
    instructions = list(struct.iter_unpack("<BBhi", code))
    found: list[tuple[int, int]] = []
    under_way, done = {0}, set[int]()
    stack = [(0, iter(_following(instructions, 0)))]
    while stack:
        at, following = stack[-1]
        for to, is_jump in following:
            if to in under_way:
                if not is_jump:
                    found.append((at, to))
            elif to not in done:
                under_way.add(to)
                stack.append((to, iter(_following(instructions, to))))
                break
        else:
            stack.pop()
            under_way.discard(at)
            done.add(at)
    return found


def _following(instructions: list[tuple[int, ...]], at: int) -> list[tuple[int, bool]]:
    """What may be executed next, in the kernel's order; whether a loop may be closed by it."""
    code, _, offset, _ = instructions[at]
    if code & _CLASS not in _JUMP_CLASSES or code == _CALL:
        return [(at + 1 + (code == _WIDE), False)]
    if code == _EXIT:
        return []
    if code == _ALWAYS:
        return [(at + 1 + offset, True)]
    return [(at + 1, True), (at + 1 + offset, True)]
