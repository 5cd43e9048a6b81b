# SPDX-License-Identifier: Apache-2.0
"""BTF made by hand, type by type (include/uapi/linux/btf.h), for what no kernel at hand has."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from kernelspan_agent.probes import btf

MAGIC = 0xEB9F


class Builder:
    """Each method adds a type and gives its number. `before`: numbers and bytes of names of the base, for a module."""

    def __init__(self, types_before: int = 1, names_before: int = 0) -> None:
        self._types, self._names = bytearray(), bytearray(b"\0")
        self._next, self._names_before = types_before, names_before

    def name(self, text: str) -> int:
        """The offset of a name."""
        if not text:
            return 0
        at = self._names.find(b"\0" + text.encode() + b"\0")
        if at < 0:
            at = len(self._names) - 1
            self._names += text.encode() + b"\0"
        return at + 1 + self._names_before

    def add(
        self, kind: int, name: str = "", value: int = 0, words: Iterable[int] = (), count: int = 0, flag: bool = False
    ) -> int:
        """Any type."""
        self._types += struct.pack("<III", self.name(name), kind << 24 | count | flag << 31, value)
        self._types += b"".join(struct.pack("<I", word & 0xFFFF_FFFF) for word in words)
        self._next += 1
        return self._next - 1

    def integer(self, name: str, size: int, encoding: int = 0, bits: int = 0, shift: int = 0) -> int:
        """encoding: 1 signed, 4 bool. bits, shift: of the bit-fields of old."""
        return self.add(btf.INT, name, size, [encoding << 24 | shift << 16 | (bits or size * 8)])

    def pointer(self, to: int) -> int:
        return self.add(btf.PTR, "", to)

    def array(self, of: int, count: int) -> int:
        return self.add(btf.ARRAY, "", 0, [of, 1, count])

    def struct(
        self, name: str, size: int, *members: tuple[str, int, int], kind: int = btf.STRUCT, flag: bool = False
    ) -> int:
        """Members are name, type, offset in bits; with `flag` the size of a bit-field in the top byte of that."""
        words = [word for each, number, bits in members for word in (self.name(each), number, bits)]
        return self.add(kind, name, size, words, len(members), flag)

    def function(self, name: str, returns: int, *parameters: tuple[str, int]) -> int:
        """With its prototype; a last parameter of type 0 stands for an ellipsis."""
        words = [word for each, number in parameters for word in (self.name(each), number)]
        return self.add(btf.FUNC, name, self.add(btf.FUNC_PROTO, "", returns, words, len(parameters)), count=1)

    def bytes(self) -> bytes:
        """The file."""
        header = struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, 0, len(self._types), len(self._types), len(self._names))
        return header + bytes(self._types) + bytes(self._names)

    @property
    def ends(self) -> tuple[int, int]:
        """For the Builder of a module on top of this one."""
        return self._next, len(self._names)


def small_kernel() -> Builder:
    """A bit of everything, in which every part of the readers has something to do."""
    made = Builder()
    number, char = made.integer("int", 4, 1), made.integer("char", 1, 1)
    word = made.integer("long unsigned int", 8)
    truth = made.integer("bool", 1, 4)
    comm = made.array(char, 16)
    task_number = 13  # the struct after the seven that follow here
    task = made.pointer(task_number)
    tag = made.add(btf.TYPE_TAG, "user", char)
    buffer = made.pointer(made.add(btf.CONST, "", tag))
    percpu = made.pointer(made.add(btf.TYPE_TAG, "percpu", number))
    unnamed = made.struct("", 8, ("left", number, 0), ("right", number, 32), kind=btf.UNION)
    assert made.ends[0] == task_number  # what names it before it is there is right
    made.struct(
        "task", 96,
        ("parent", task, 0), ("comm", comm, 64), ("", unnamed, 192), ("flag", number, 256 | 3 << 24), ("wide", number, 259 | 20 << 24),
        ("buffer", buffer, 320), ("counters", percpu, 384), ("table", made.ends[0] + 1, 448), ("hidden", made.ends[0] + 3, 512),
        ("address", word, 576), ("alive", truth, 640),
        flag=True,
    )  # fmt: skip
    table = made.array(number, 4)
    declared = made.add(btf.FWD, "elsewhere")
    made.pointer(declared)
    made.struct("holder", 136, ("before", word, 0), ("task", task_number, 64), ("table", table, 832))
    made.struct("twice", 200, ("one", task_number, 0), ("other", task_number, 768))
    state = made.add(btf.ENUM, "state", 4, [made.name("GONE"), -1, made.name("THERE"), 1], 2)
    pair = made.struct("pair", 16, ("a", word, 0), ("b", word, 64))
    large = made.struct("large", 24, ("a", word, 0), ("b", word, 64), ("c", word, 128))
    size = made.add(btf.TYPEDEF, "size_t", word)
    made.function("reap", number, ("victim", task), ("how", state), ("limit", size))
    made.function("values", 0, ("first", pair), ("second", number), ("third", large), ("fourth", number))
    made.function("say", number, ("format", made.pointer(char)), ("", 0))
    prototype = made.add(btf.FUNC_PROTO, "", 0, [0, made.pointer(0), 0, task, 0, number], 3)
    made.add(btf.TYPEDEF, "btf_trace_reaped", made.pointer(prototype))
    made.function("__traceiter_reaped", number, ("__data", made.pointer(0)), ("victim", task), ("status", number))
    made.struct("huge", 1 << 20, ("x", number, 0))
    return made
