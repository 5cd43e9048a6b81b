# SPDX-License-Identifier: Apache-2.0
"""What the kernel's walk is told of a piece of code: where the caller's frame begins there, and where %rbp was kept.

A row is a word. Its upper half is an address of the file: the row holds from there to the next row's. The lower half is a rule:

    bits 0 to 2    how the canonical frame address (CFA) is found: RSP, RBP: that register and an offset; AT_RBP: a word of memory
                   lies at %rbp less an offset, and is it; OUTERMOST: nobody has called; SIGNAL: the kernel has put down all
                   registers; UNKNOWN: nothing is claimed
    bits 3 to 10   where the caller's %rbp is kept: so many words below the CFA; 0: %rbp has it still; HELD: %rbp leads to it
    bits 11 to 31  the offset, in words

The return address is always the word below the CFA.
"""

from __future__ import annotations

UNKNOWN, RSP, RBP, AT_RBP, OUTERMOST, SIGNAL = range(6)
HELD = 255
WORD = 8
RBP_SHIFT, OFFSET_SHIFT = 3, 11
ADDRESS_SHIFT = 32
MAX_OFFSET_WORDS = (1 << 21) - 1
CONSTANTS = {
    "KS_NATIVE_RSP": RSP,
    "KS_NATIVE_RBP": RBP,
    "KS_NATIVE_AT_RBP": AT_RBP,
    "KS_NATIVE_OUTERMOST": OUTERMOST,
    "KS_NATIVE_SIGNAL": SIGNAL,
    "KS_NATIVE_HELD": HELD,
}


def rule(kind: int, offset: int, kept: int) -> int:
    """The lower half of a row; `offset` in bytes, `kept`: bits 3 to 10. What does not fit is UNKNOWN."""
    words, rest = divmod(offset, WORD)
    if rest or not 0 <= words <= MAX_OFFSET_WORDS or not 0 <= kept <= HELD:
        return UNKNOWN
    return kind | kept << RBP_SHIFT | words << OFFSET_SHIFT
