# SPDX-License-Identifier: Apache-2.0
"""Types as C writes them: `const struct iovec *`, `char[16]`, `void (*)(struct work_struct *)`."""

from __future__ import annotations

from kernelspan_agent.probes import btf
from kernelspan_agent.probes.btf import Btf, BtfError, Record

_WORDS = {btf.CONST: "const", btf.VOLATILE: "volatile", btf.RESTRICT: "restrict"}
_TAGS = {btf.STRUCT: "struct ", btf.UNION: "union ", btf.ENUM: "enum ", btf.ENUM64: "enum "}
_MAX_CHARACTERS = 400


def text(types: Btf, number: int, name: str = "") -> str:
    """The type as C text, with a name declared by it where one is given. What is too long ends in an ellipsis."""
    written = _declared(types, number, name, 0)
    return written if len(written) <= _MAX_CHARACTERS else written[: _MAX_CHARACTERS - 1] + "…"


def _declared(types: Btf, number: int, declared: str, depth: int) -> str:
    words: list[str] = []  # qualifiers of what is being read
    for _ in range(btf.MAX_DEPTH):
        record = types.record(number)
        if record.kind in _WORDS:
            words.append(_WORDS[record.kind])
        elif record.kind == btf.PTR:
            declared = f"*{' '.join([*words, ''])}{declared}" if words else f"*{declared}"
            words = []
        elif record.kind == btf.ARRAY:
            declared = f"{_within(declared)}[{types.trailer(record, 0, 3)[2] or ''}]"
            number = types.trailer(record, 0, 3)[0]
            continue
        elif record.kind == btf.FUNC_PROTO:
            declared = f"{_within(declared)}({_parameters(types, record, depth)})"
        elif record.kind != btf.TYPE_TAG:  # tags are no C
            base = " ".join([*words, _base(record)])
            return f"{base} {declared.rstrip()}" if declared and not declared.startswith("[") else base + declared
        number = record.value
    raise BtfError(f"type {number} has no end")


def _within(declared: str) -> str:
    return f"({declared})" if declared.startswith("*") else declared


def _base(record: Record) -> str:
    if record.kind == btf.FWD:
        return ("union " if record.flag else "struct ") + record.name
    return _TAGS.get(record.kind, "") + (record.name or "{…}")


def _parameters(types: Btf, record: Record, depth: int) -> str:
    if depth > 1 or record.count > 16:
        return "…"
    numbers = [types.trailer(record, index, 2)[1] for index in range(record.count)]
    last = len(numbers) - 1
    written = [
        "..." if not number and index == last else _declared(types, number, "", depth + 1)
        for index, number in enumerate(numbers)
    ]
    return ", ".join(written) or "void"
