# SPDX-License-Identifier: Apache-2.0
"""The hashes that the walkers in the kernel make of what they read (bpf/include: ks_mix, ks_user_hash). Not for secrets."""

from __future__ import annotations

from collections.abc import Iterable

_MASK = (1 << 64) - 1


def mix(mixed: int, *words: int) -> int:
    """64 bits of `mixed` and of words one after another."""
    return mix_all(mixed, words)


def mix_all(mixed: int, words: Iterable[int]) -> int:
    """The same."""
    for word in words:
        mixed = (mixed ^ word) * 0x9E3779B97F4A7C15 & _MASK
        mixed ^= mixed >> 29
    return mixed


def mix_lanes(data: bytes) -> int:
    """64 bits of bytes, the last word filled up with zeros: four of `mix_all` side by side, then of these."""
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    lanes = [mix_all(0, words[lane::4]) for lane in range(4)]
    return mix_all(lanes[0], lanes[1:])
