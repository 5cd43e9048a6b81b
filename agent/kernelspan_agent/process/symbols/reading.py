# SPDX-License-Identifier: Apache-2.0
"""Asks the reading child (`child.py`): names demangled, the returns of a function found.

A name that kills the child stays as it is, and another child goes on behind it; a file whose names do so again and again
is left alone. The child is this interpreter, without what the environment would make it import.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAMES_AT_ONCE = 20_000
CODE_AT_ONCE_BYTES = 2 << 20  # some 0.6 s of the child's CPU
MAX_MANGLED_BYTES = 16 << 10
MAX_DEATHS = 3  # of one call: a file made to kill costs 12 s of the CPU, of a child
TIMEOUT_SECONDS = 60.0  # of the clock: an agent may be allowed a tenth of a CPU
_CHILD = str(Path(__file__).with_name("child.py"))


def demangled(names: Sequence[bytes]) -> list[str]:
    """For each name its demangled form; empty: it is not mangled, or by no scheme that is known."""
    found = [""] * len(names)
    asked = [index for index, name in enumerate(names) if is_mangled(name)]
    deaths = 0
    while asked and deaths <= MAX_DEATHS:
        part = asked[:NAMES_AT_ONCE]
        answers, whole = _demangle([names[index] for index in part])
        for index, answer in zip(part, answers, strict=False):
            found[index] = answer
        done = len(answers)
        if done < len(part) and not whole:
            deaths += 1
            done += 1  # past the name it died of
        asked = asked[done:]
    return found


def is_mangled(name: bytes) -> bool:
    """Whether it looks like C++'s (Itanium) or Rust's."""
    return name.startswith((b"_Z", b"_R")) and len(name) <= MAX_MANGLED_BYTES and name.isascii()


def returns_of(functions: Sequence[Sequence[tuple[int, bytes]]]) -> list[tuple[list[int], int] | str]:
    """(addresses of RET instructions, address behind the check of the stack's size) of each function of x86-64.

    A function by its parts (`child.returns`); why not, where they are not certain.
    """
    found: list[tuple[list[int], int] | str] = []
    asked: list[bytes] = []
    size = 0
    for parts in functions:
        words = [struct.pack("<QQ", address, len(code)) + code for address, code in parts]
        asked.append(struct.pack("<Q", len(parts)) + b"".join(words))
        size += len(asked[-1])
        if size >= CODE_AT_ONCE_BYTES:
            found += _returns(asked)
            asked, size = [], 0
    return found + (_returns(asked) if asked else [])


def _returns(asked: Sequence[bytes]) -> list[tuple[list[int], int] | str]:
    data, status = _run("returns", b"".join(asked))
    try:
        answers = [
            str(each["problem"])
            if each.get("problem")
            else ([int(address) for address in each["returns"]], int(each["body"]))
            for each in json.loads(data)
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        answers = []
    return answers if len(answers) == len(asked) else [f"the disassembler ended with {status}"] * len(asked)


def _demangle(names: list[bytes]) -> tuple[list[str], bool]:
    data, status = _run("demangle", b"".join(name + b"\0" for name in names))
    answers: list[str] = []
    position = 0
    while position + 4 <= len(data) and len(answers) < len(names):
        (size,) = struct.unpack_from("<I", data, position)
        if position + 4 + size > len(data):
            break
        answers.append(data[position + 4 : position + 4 + size].decode("utf-8", "surrogateescape"))
        position += 4 + size
    return answers, status == 0 and bool(answers)


def _run(what: str, data: bytes) -> tuple[bytes, int]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", _CHILD, what],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", -1
    return done.stdout, done.returncode
