# SPDX-License-Identifier: Apache-2.0
"""What matters of the verifier's log: why a program was refused, at which instruction, and of which line of C.

The log is up to 16 MiB of every state that was followed; the reason stands at its end, behind the instruction that it is
about. Forms of lines: kernel/bpf/verifier.c, of Linux 5.10 to 6.18.
"""

from __future__ import annotations

import re

TAIL = 64 << 10  # characters of the log that are looked at
MAX_LINE = 200
MAX_REASONS = 2  # lines
_INSTRUCTION = re.compile(r"\d+: \([0-9a-f]{2}\) .")
_STATE = re.compile(r"\s+; (?:frame\d+: )?R\d.*|\s+; R\d.*")  # what the registers hold after it
_NOISE = re.compile(
    r"(?:processed \d+ insns|verification time|stack depth|max_states|mark_precise|last_idx|first_idx|regs=|parent |"
    r"propagating|from \d+ to \d+|(?:\d+: )?(?:frame\d+: )?R\d+(?:_\w+)?=|\s|live regs|func#\d|[-=]{3})"
)


def verdict(log: str) -> str:
    """One line: the reason, and where it is known `at INSTRUCTION` and the line of C it was compiled from."""
    lines = [line for line in log[-TAIL:].splitlines() if line.strip()]
    reasons: list[str] = []
    instruction = source = ""
    for line in reversed(lines):
        if _INSTRUCTION.match(line):
            instruction = instruction or _STATE.sub("", line)
        elif line.startswith(";"):
            if instruction:
                source = line.lstrip("; ")
                break
        elif not instruction and not _NOISE.match(line) and len(reasons) < MAX_REASONS:
            reasons.append(line)
    text = " / ".join(_cut(line) for line in reversed(reasons))
    if instruction:
        text += f" at {_cut(instruction)}"
    return f"{text} of {_cut(source)}" if source else text


def _cut(line: str) -> str:
    plain = "".join(each if each.isprintable() else "?" for each in line.strip())
    return plain if len(plain) <= MAX_LINE else f"{plain[: MAX_LINE - 1]}…"
