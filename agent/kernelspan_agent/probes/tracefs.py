# SPDX-License-Identifier: Apache-2.0
"""The kernel's tracepoints as tracefs lists and describes them (Documentation/trace/events.rst).

What is read is the kernel's own text, or that of whoever mounted something else there: bounded, and a line that is none
is an error, not a guess.
"""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.nearest import hint as near

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
HIDDEN_BYTES = 8  # of a record a program may not read: the kernel keeps a pointer there (perf_trace_buf_prepare)
# A tracepoint of a system call bears the name in the kernel's SYSCALL_DEFINE, which differs from the call's for these
# (arch/x86/entry/syscalls/syscall_64.tbl, fs/stat.c, fs/read_write.c, fs/namespace.c, kernel/sys.c).
CALL_NAMES = {
    "stat": "newstat",
    "lstat": "newlstat",
    "fstat": "newfstat",
    "sendfile": "sendfile64",
    "umount2": "umount",
    "uname": "newuname",
}
_MAX_FORMAT_BYTES = 64 << 10  # the largest of 2,323 has 5,523
_MAX_LIST_BYTES = 4 << 20  # 2,305 events are 60 kB
_MAX_FIELDS = 256
_MAX_RECORD_BYTES = 8192  # PERF_MAX_TRACE_SIZE
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_EVENT = re.compile(f"{_NAME.pattern}:{_NAME.pattern}")
_FIELD = re.compile(
    r"\tfield:(?P<type>[ -:<-~]{1,512}?)(?<![A-Za-z0-9_])(?P<name>[A-Za-z_][A-Za-z0-9_]{0,127}) ?(?P<array>\[[^];\n]{0,128}\])?;"
    r"\toffset:(?P<offset>[0-9]{1,6});\tsize:(?P<size>[0-9]{1,6});(?:\tsigned:(?P<signed>[01]);)?"
)
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__user|__seg_gs|__percpu|__rcu)\b ?")
_LOCATED = re.compile(r"(?P<where>__data_loc|__rel_loc) (?P<type>.*?)(?:\[[^\]]*\])?$")


class Place(enum.Enum):
    """Where a field's value is."""

    RECORD = "record"  # at the field's offset
    DATA_LOC = "__data_loc"  # there are four bytes: length << 16 | offset from the record's start
    REL_LOC = "__rel_loc"  # the same, the offset counted from behind these four bytes


class FieldKind(enum.Enum):
    """What a field is, as far as its reader must know."""

    INTEGER = "integer"  # also enums and bool; of 1, 2, 4 or 8 bytes
    POINTER = "pointer"
    STRING = "string"  # char[]
    ARRAY = "array"
    STRUCT = "struct"  # or anything else of which only the size is known


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a tracepoint's record.

    type: as C writes it, `char[16]` for an array. size: bytes at `offset`; of a value that is elsewhere (`place`), 4.
    signed: of an integer, or of an array's elements. elements: of an array, 0 where it has no fixed number.
    element_size: bytes of one; 0: not an array, or not known.
    """

    name: str
    type: str
    kind: FieldKind
    offset: int
    size: int
    signed: bool
    place: Place = Place.RECORD
    elements: int = 0
    element_size: int = 0


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint. `fields` are those a program may read; `common` those at the beginning, which it may not."""

    category: str
    name: str
    number: int
    fields: tuple[Field, ...]
    common: tuple[Field, ...] = ()

    def field(self, name: str) -> Field:
        """A field by its name. Raises MachineError (ArgumentUnsupported) with the nearest names."""
        for each in self.fields:
            if each.name == name:
                return each
        names = [each.name for each in self.fields]
        if any(each.name == name for each in self.common):
            raise self._without(name, "programs may not read it")
        raise self._without(name, near(name, names) or f"it has {', '.join(names) or 'none'}")

    def _without(self, name: str, hint: str) -> MachineError:
        what = f"tracepoint {self.category}:{self.name} has no field {name} for programs"
        return MachineError(what, reason="ArgumentUnsupported", hint=hint)


class Tracefs:
    """Where the kernel lists its tracepoints."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def mounted(cls, candidates: tuple[Path, ...] = TRACEFS) -> Tracefs | None:
        """The mounted one, None where there is none. Raises PermissionError where we may not even look."""
        for root in candidates:
            try:
                (root / "events").stat()
            except FileNotFoundError:
                continue
            return cls(root)
        return None

    @classmethod
    def find(cls) -> Tracefs:
        """The mounted one; MachineError with the remedy where there is none, or none that we may read."""
        with contextlib.suppress(PermissionError):
            if (found := cls.mounted()) is not None:
                return found
            raise MachineError(
                "tracefs is not mounted",
                reason="TracepointNotFound",
                hint="mount it: mount -t tracefs tracefs /sys/kernel/tracing",
            )
        raise MachineError("tracefs may not be read", reason="PermissionDenied", hint="grant CAP_DAC_READ_SEARCH")

    def event_id(self, category: str, event: str) -> int | None:
        """A tracepoint's number; None where this kernel has no such tracepoint."""
        if not (_NAME.fullmatch(category) and _NAME.fullmatch(event)):  # no path to elsewhere
            return None
        try:
            text = self._text(f"events/{category}/{event}/id", 64)
        except FileNotFoundError:
            return None
        try:
            return int(text)
        except ValueError:
            raise MachineError(f"tracepoint {category}:{event} has no number", reason="TracepointNotFound") from None

    def field_offset(self, category: str, event: str, field: str) -> int:
        """Offset of a tracepoint's field in its record."""
        return self.tracepoint(category, event).field(field).offset

    def tracepoint(self, category: str, event: str) -> Tracepoint:
        """A tracepoint with its fields.

        Raises MachineError: TracepointNotFound with the nearest names, or ArgumentUnsupported where its description
        cannot be read.
        """
        number = self.event_id(category, event)
        if number is None:
            raise self._missing(category, event)
        try:
            text = self._text(f"events/{category}/{event}/format", _MAX_FORMAT_BYTES)
        except FileNotFoundError:
            raise self._missing(category, event) from None
        common, fields = parse_format(f"tracepoint {category}:{event}", text)
        return Tracepoint(category, event, number, fields, common)

    def events(self, pattern: str = "*") -> list[tuple[str, str]]:
        """Category and name of each tracepoint that a glob over CATEGORY:NAME selects, or over names if it has no colon."""
        whole = pattern if ":" in pattern else f"*:{pattern}"
        lines = self._text("available_events", _MAX_LIST_BYTES).splitlines()
        found = {
            tuple(line.split(":")) for line in lines if fnmatch.fnmatchcase(line, whole) and _EVENT.fullmatch(line)
        }
        return sorted((category, name) for category, name in found)

    def categories(self) -> list[str]:
        """The folders of tracepoints."""
        return sorted({category for category, _ in self.events()})

    def _missing(self, category: str, event: str) -> MachineError:
        known = self.events()
        inside = [name for each, name in known if each == category]
        hint = near(event, inside) if inside else near(category, {each for each, _ in known})
        hint = hint or near(f"{category}:{event}", (":".join(each) for each in known))
        what = f"tracepoint {category}:{event}: this kernel has no such " + ("event" if inside else "category")
        return MachineError(what, reason="TracepointNotFound", hint=hint or "kernelspan list tracepoints PATTERN")

    def _text(self, name: str, most: int) -> str:
        """The file's beginning, at most so many bytes. Raises FileNotFoundError where it is not there."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(most).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(name) from None
        except PermissionError as error:
            raise MachineError(f"{self.root} may not be read", reason="PermissionDenied", hint="run as root") from error
        except OSError as error:
            raise MachineError(f"{self.root}/{name}: {error.strerror}", reason="TracepointNotFound") from error


def parse_format(of: str, text: str) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Common fields and those of its own, from the text of a `format`. Raises MachineError (ArgumentUnsupported)."""
    found: list[Field] = []
    for line in text.partition("\nformat:\n")[2].split("\n"):
        if line.startswith("print fmt:"):
            break
        if not line:
            continue
        if len(found) == _MAX_FIELDS:
            raise _unreadable(of, "too many fields")
        found.append(_field(of, line))
    if not found:
        raise _unreadable(of, "no field")
    common = tuple(each for each in found if each.offset < HIDDEN_BYTES)
    return common, tuple(each for each in found if each.offset >= HIDDEN_BYTES)


def _field(of: str, line: str) -> Field:
    match = _FIELD.match(line)
    if match is None:
        raise _unreadable(of, line.strip()[:80])
    name, offset, size = match["name"], int(match["offset"]), int(match["size"])
    if offset + size > _MAX_RECORD_BYTES:
        raise _unreadable(of, f"{name} lies beyond the record")
    written, array = " ".join(match["type"].split()), match["array"]
    place, elements = Place.RECORD, 0
    if located := _LOCATED.fullmatch(written):
        place, written, array = Place(located["where"]), located["type"], "[]"
    kind, element_size = _kind(written, size, array, place)
    if array and element_size and place is Place.RECORD:
        elements = size // element_size
    signed = match["signed"] == "1"
    shown = f"{written}[{elements or ''}]" if array else written
    return Field(name, shown, kind, offset, size, signed, place, elements, element_size)


_SIZES = {"char": 1, "bool": 1, "short": 2, "int": 4, "unsigned": 4, "long": 8, "long long": 8}
_FIXED = re.compile(r"(?:__)?[us](8|16|32|64)|u?int(8|16|32|64)_t|__[bl]e(16|32|64)")


def _kind(written: str, size: int, array: str | None, place: Place) -> tuple[FieldKind, int]:
    """What it is, and the size of an array's element."""
    plain = _QUALIFIERS.sub("", written).strip()
    if not array:
        if plain.endswith("*"):
            return FieldKind.POINTER, 0
        is_struct = plain.startswith(("struct ", "union ")) or size not in {1, 2, 4, 8}
        return (FieldKind.STRUCT if is_struct else FieldKind.INTEGER), 0
    if plain == "char":
        return FieldKind.STRING, 1
    each = 8 if plain.endswith("*") else _SIZES.get(plain.removeprefix("unsigned ").removeprefix("signed "), 0)
    if fixed := _FIXED.fullmatch(plain):
        each = int(next(filter(None, fixed.groups()))) // 8
    if each and size % each and place is Place.RECORD:
        each = 0
    return FieldKind.ARRAY, each


def _unreadable(of: str, what: str) -> MachineError:
    return MachineError(f"{of}: its description cannot be read: {what}", reason="ArgumentUnsupported")
