# SPDX-License-Identifier: Apache-2.0
"""From a file's .eh_frame to rows: what compilers write for exceptions says of every instruction where the caller's frame is.

Read are the CIEs and FDEs of x86-64 (DWARF 5, 6.4; the Linux Standard Base's core, 10.6), as far as a row can hold what they
say (`rows`). Whatever else they say, or is not understood, is a row that claims nothing. A file may be crafted: sizes and counts
are bounded, and functions that overlap make all of it void.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process.elf import EM_X86_64, SHT_NOBITS, read_at
from kernelspan_agent.process.errors import ElfError

from .layout import ROWS_EACH
from .rows import ADDRESS_SHIFT, AT_RBP, HELD, OUTERMOST, RBP, RSP, SIGNAL, UNKNOWN, WORD, rule

if TYPE_CHECKING:
    from kernelspan_agent.process.elf import Elf

MAX_BYTES = 16 << 20  # libjvm has 3 MB
_RBP, _RSP, _RETURN = 6, 7, 16  # DWARF's numbers
_MAX_DEPTH = 64  # of remembered states
_ABSOLUTE, _UDATA2, _UDATA4, _UDATA8, _SDATA2, _SDATA4, _SDATA8 = 0, 2, 3, 4, 10, 11, 12
_SIZES = {_ABSOLUTE: 8, _UDATA2: 2, _UDATA4: 4, _UDATA8: 8, _SDATA2: 2, _SDATA4: 4, _SDATA8: 8}
_PC_RELATIVE, _APPLIED = 0x10, 0x70
_U64 = (1 << 64) - 1
_RULE = (1 << ADDRESS_SHIFT) - 1
# Of the only expressions that are known: the word at %rbp and an offset; %rbp itself; where the kernel has put %rsp for a handler.
_BREG_RBP, _DEREF = 0x76, 0x06
_AT_RBP = bytes([_BREG_RBP, 0])
_HANDLER = bytes([0x77, 0xA0, 0x01, _DEREF])

# How a state says where things are. CFA: a register's number, or one of the first three; %rbp: `kept`, or _LOST; return: the others.
_NO_CFA, _AT, _HANDLED = -1, -2, -3
_LOST = -1
_KEPT, _NOBODY, _GONE = 0, 1, 2
_State = tuple[int, int, int, int]  # register of the CFA, its offset, %rbp, return
_BEGIN: _State = (_NO_CFA, 0, 0, _GONE)


class _UnusableError(Exception):
    """An entry that is not understood."""


@dataclass(frozen=True, slots=True)
class _Cie:
    code_align: int
    data_align: int
    encoding: int
    augmented: bool
    signal: bool
    state: _State


@dataclass(frozen=True, slots=True)
class _Fde:
    start: int
    end: int
    at: int  # of its instructions
    until: int
    cie: _Cie | None


def read_rows(elf: Elf) -> array[int]:
    """The rows of a file's code, in the order of their addresses. Empty: it says nothing. Raises ElfError."""
    section = elf.section(".eh_frame")
    if elf.machine != EM_X86_64 or section is None or section.kind == SHT_NOBITS:
        return array("Q")
    if section.size > MAX_BYTES:
        raise ElfError(f".eh_frame of {section.size} bytes")
    code = [(each.address, each.address + each.file_bytes) for each in elf.segments if each.is_code]
    return _rows(_Reader(read_at(elf.fd, section.offset, section.size), section.address), code)


def _rows(reader: _Reader, code: list[tuple[int, int]]) -> array[int]:
    found = [each for each in reader.functions() if any(low <= each.start < each.end <= high for low, high in code)]
    found.sort(key=lambda each: (each.start, each.end))
    rows = array("Q")
    last = end = 0
    for each in found:
        if each.start < end:
            if each.end == end and each.start == last:
                continue  # one function by two names
            raise ElfError(f"two functions of .eh_frame lie at {each.start:#x}")
        if rows and each.start > end:
            _put(rows, end, UNKNOWN)
        _append(rows, reader, each)
        last, end = each.start, each.end
        if len(rows) > ROWS_EACH:
            raise ElfError(f".eh_frame of more than {ROWS_EACH} rows")
    if rows:
        _put(rows, end, UNKNOWN)
    return rows


def _put(rows: array[int], address: int, what: int) -> None:
    if not rows or rows[-1] & _RULE != what:
        rows.append(address << ADDRESS_SHIFT | what)


def _append(rows: array[int], reader: _Reader, fde: _Fde) -> None:
    at = fde.start
    signal = fde.cie is not None and fde.cie.signal
    try:
        for begin, state in reader.states(fde):
            _put(rows, begin, _rule(state, signal=signal))
            at = begin + 1
    except (_UnusableError, IndexError):
        _put(rows, at, UNKNOWN)


def _rule(state: _State, *, signal: bool) -> int:
    register, offset, kept, returns = state
    if register == _HANDLED and signal:
        return SIGNAL
    if returns == _NOBODY:
        return OUTERMOST
    if returns == _GONE or kept == _LOST or signal:
        return UNKNOWN
    if register == _RSP:
        return rule(RSP, offset, kept)
    if register == _RBP:
        return rule(RBP, offset, kept)
    return rule(AT_RBP, -offset, kept) if register == _AT else UNKNOWN


class _Reader:
    """A section's bytes, and the address that they have in the file."""

    def __init__(self, data: bytes, address: int) -> None:
        self._data, self._address = data, address
        self._cies: dict[int, _Cie | None] = {}

    def functions(self) -> list[_Fde]:
        """Every FDE; of one that cannot be used the place is known all the same. Raises ElfError: the chain is broken."""
        data, at, found = self._data, 0, []
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            begin, at = at + 4, at + 4 + length
            if not length:
                continue  # an end, behind which a linker may have put more
            if length < 4 or at > len(data):
                raise ElfError(f".eh_frame has an entry of {length} bytes")
            back = int.from_bytes(data[begin : begin + 4], "little")
            if not back:
                continue  # a CIE
            if (fde := self._function(begin, at, begin - back)) is not None:
                found.append(fde)
        return found

    def _function(self, begin: int, until: int, cie_at: int) -> _Fde | None:
        if cie_at not in self._cies:
            self._cies[cie_at] = self._cie(cie_at)
        cie = self._cies[cie_at]
        encoding = cie.encoding if cie is not None else _PC_RELATIVE | _SDATA4
        try:
            start, at = self._address_at(begin + 4, encoding)
            size, at = self._plain(at, encoding)
            if cie is not None and cie.augmented:
                length, at = self._unsigned(at)
                at += length
        except (_UnusableError, IndexError):
            raise ElfError(".eh_frame does not say where a function lies") from None
        end = start + size
        if not size or end >> ADDRESS_SHIFT:
            return None
        return _Fde(start, end, at, until, cie)

    def _cie(self, at: int) -> _Cie | None:
        """None: of what it is for nothing but the places can be told."""
        try:
            return self._read_cie(at)
        except (_UnusableError, IndexError, ValueError):
            return None

    def _read_cie(self, at: int) -> _Cie:
        data = self._data
        until = at + 4 + int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at < 4 or data[at : at + 4] != b"\0\0\0\0":
            raise _UnusableError
        version = data[at + 4]
        end = data.index(b"\0", at + 5, at + 5 + WORD)
        augmentation = data[at + 5 : end]
        code_align, at = self._unsigned(end + 1)
        data_align, at = self._signed(at)
        returns, at = (data[at], at + 1) if version == 1 else self._unsigned(at)
        if version not in {1, 3} or returns != _RETURN or (augmentation and augmentation[:1] != b"z"):
            raise _UnusableError
        encoding, signal = _ABSOLUTE, False
        if augmentation:
            length, at = self._unsigned(at)
            begin, at = at, at + length
            for letter in augmentation[1:].decode("latin-1"):
                if letter == "R":
                    encoding, begin = data[begin], begin + 1
                elif letter == "P":
                    begin = self._skip(begin + 1, data[begin])
                elif letter == "L":
                    begin += 1
                elif letter == "S":
                    signal = True
                else:
                    raise _UnusableError
        if encoding & _APPLIED not in {0, _PC_RELATIVE} or encoding & 0x80 or encoding & 15 not in _SIZES:
            raise _UnusableError
        made = _Cie(code_align, data_align, encoding, bool(augmentation), signal, _BEGIN)
        *_, (_, state) = self._interpret(at, min(until, len(data)), made, 0, _U64)
        return _Cie(code_align, data_align, encoding, bool(augmentation), signal, state)

    def states(self, fde: _Fde) -> list[tuple[int, _State]]:
        """From where which state holds; never two at one place, nor twice the same."""
        if fde.cie is None:
            raise _UnusableError
        return self._interpret(fde.at, fde.until, fde.cie, fde.start, fde.end)

    def _interpret(self, at: int, until: int, cie: _Cie, place: int, end: int) -> list[tuple[int, _State]]:  # noqa: C901, PLR0912, PLR0915
        """What instructions make of the CIE's state. From what is not known on the state claims nothing."""
        data, align, code_align = self._data, cie.data_align, cie.code_align
        register, offset, kept, returns = first = cie.state
        remembered: list[_State] = []
        found: list[tuple[int, _State]] = []
        while at < until:
            op = data[at]
            at += 1
            low, high = op & 63, op >> 6
            if high == 1 or op in {2, 3, 4}:  # advance
                step = low
                if high != 1:
                    size = 1 << op - 2
                    step, at = int.from_bytes(data[at : at + size], "little"), at + size
                state = register, offset, kept, returns
                if not found or found[-1][1] != state:
                    found.append((place, state))
                following = place + step * code_align
                if following == place and found[-1][0] == place:
                    found.pop()  # what follows holds from here on
                place = following
                if place >= end:
                    return found
            elif high == 2 or op in {5, 0x11, 0x2F}:  # kept in memory: offset, its extended ones
                if high == 2:
                    which = low
                else:
                    which, at = self._unsigned(at)
                value, at = self._signed(at) if op == 0x11 else self._unsigned(at)
                value *= -align if op == 0x2F else align
                if which == _RBP:
                    kept = -value // WORD if not value % WORD and 0 < -value < HELD * WORD else _LOST
                elif which == _RETURN:
                    returns = _KEPT if value == -WORD else _GONE
            elif high == 3 or op == 6:  # restore
                which, at = (low, at) if high == 3 else self._unsigned(at)
                if which == _RBP:
                    kept = first[2]
                elif which == _RETURN:
                    returns = first[3]
            elif op == 0x0E:  # def_cfa_offset
                offset, at = self._unsigned(at)
                register = max(register, _NO_CFA)
            elif op == 0x0D:  # def_cfa_register
                register, at = self._unsigned(at)
            elif op in {0x0C, 0x12}:  # def_cfa
                register, at = self._unsigned(at)
                offset, at = self._unsigned(at) if op == 0x0C else self._signed(at)
                offset *= 1 if op == 0x0C else align
            elif op == 0x13:
                offset, at = self._signed(at)
                offset *= align
                register = max(register, _NO_CFA)
            elif op == 0x0A:  # remember
                if len(remembered) >= _MAX_DEPTH:
                    raise _UnusableError
                remembered.append((register, offset, kept, returns))
            elif op == 0x0B:
                if not remembered:
                    raise _UnusableError
                register, offset, kept, returns = remembered.pop()
            elif op in {7, 8, 9}:  # undefined, the same value, another register
                which, at = self._unsigned(at)
                if op == 9:
                    _, at = self._unsigned(at)
                if which == _RBP:
                    kept = 0 if op == 8 else _LOST
                elif which == _RETURN:
                    returns = _NOBODY if op == 7 else _GONE
            elif op == 0x0F:  # an expression: the CFA
                size, at = self._unsigned(at)
                block, at = data[at : at + size], at + size
                register, offset = self._cfa(block)
            elif op in {0x10, 0x14, 0x15, 0x16}:  # an expression, a value, or both: a register
                which, at = self._unsigned(at)
                block = b""
                if op in {0x10, 0x16}:
                    size, at = self._unsigned(at)
                    block, at = data[at : at + size], at + size
                else:
                    _, at = self._unsigned(at)
                if which == _RBP:
                    kept = HELD if op == 0x10 and block == _AT_RBP else _LOST
                elif which == _RETURN:
                    returns = _GONE
            elif op == 0x2E:  # how many bytes of arguments there are
                _, at = self._unsigned(at)
            elif op:  # 0: nothing
                raise _UnusableError
        state = register, offset, kept, returns
        if not found or found[-1][1] != state:
            found.append((place, state))
        return found

    def _cfa(self, block: bytes) -> tuple[int, int]:
        if block == _HANDLER:
            return _HANDLED, 0
        if len(block) == 3 and block[0] == _BREG_RBP and block[2] == _DEREF and 0x40 < block[1] < 0x80:
            return _AT, block[1] - 0x80
        return _NO_CFA, 0

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _unsigned(self, at: int) -> tuple[int, int]:
        byte = self._data[at]
        if byte < 0x80:
            return byte, at + 1
        value = shift = 0
        while byte & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if shift > 63:
                raise _UnusableError
            byte = self._data[at]
        return value | byte << shift, at + 1

    def _signed(self, at: int) -> tuple[int, int]:
        value, end = self._unsigned(at)
        bits = 7 * (end - at)
        return value - (1 << bits) if self._data[end - 1] & 0x40 else value, end

    def _plain(self, at: int, encoding: int) -> tuple[int, int]:
        size = _SIZES[encoding & 15]
        if at + size > len(self._data):
            raise _UnusableError
        return int.from_bytes(self._data[at : at + size], "little"), at + size

    def _address_at(self, at: int, encoding: int) -> tuple[int, int]:
        size = _SIZES[encoding & 15]
        value, end = self._plain(at, encoding)
        if encoding & 15 in {_SDATA2, _SDATA4, _SDATA8} and value >> (8 * size - 1):
            value -= 1 << 8 * size
        if encoding & _PC_RELATIVE:
            value += self._address + at
        return value & _U64, end

    def _skip(self, at: int, encoding: int) -> int:
        if encoding == 0xFF:
            return at
        if encoding & 15 not in _SIZES:
            raise _UnusableError
        return at + _SIZES[encoding & 15]
