# SPDX-License-Identifier: Apache-2.0
"""From a value to a member by a path: `mm.owner.real_parent.comm`, as the running kernel's types have it.

A path is what C would say without its arrows: names joined by dots, through pointers, structs and what is unnamed in them.

* `[2]` an array's element, or of a pointer what lies so many of its things further; `[0]` is what it points to.
* `(struct tcp_sock *)` in a name's place takes what is there so far for another type:
  - what contains it, or is contained in it, in one place only: the address moves by as much (container_of);
  - a pointer to void, char or bytes, or a number of 8 bytes: it points to that from here on;
  - an array of char or bytes in which there is room for it (sk_buff.cb): it lies there.
  Anything else is refused: BTF knows of no such relation.

Where it ends at a pointer, the pointer is the value; at a struct, its address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf
from kernelspan_agent.probes.btf import Btf, BtfError, Member, Record
from kernelspan_agent.probes.ktypes import KernelTypes, Leaf, LeafKind, Resolved, Step, size_of, tags
from kernelspan_agent.probes.nearest import hint as near
from kernelspan_agent.probes.typetext import text

MAX_STEPS = 16  # reads that a path may take
_MAX_PARTS = 64
_MAX_VISITED = 20_000  # members looked at for a cast; the largest struct of 6.18 has 2,700
_MAX_NAMES = 4096
_MAX_OFFSET = 1 << 30
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PART = re.compile(
    rf"\.?(?:(?P<name>{_NAME})|\((?P<tag>struct |union |)(?P<cast>{_NAME}) ?\*\))|\[(?P<index>[0-9]{{1,6}})\]"
)
_STRUCTS = (btf.STRUCT, btf.UNION)
_KINDS = {"struct ": (btf.STRUCT,), "union ": (btf.UNION,), "": (btf.TYPEDEF, btf.STRUCT, btf.UNION)}


def resolve(types: KernelTypes, start: Leaf, path: str) -> Resolved:
    """The way from a value of the type `start` along the path. Raises MachineError (ArgumentUnsupported), which says why."""
    try:
        return _walked(types, start, path)
    except BtfError as error:
        raise _unsupported(f"{path}: {error}") from error


@dataclass(slots=True)
class _Place:
    """Where the walk is: at a value of a type, in memory (`steps` and then `offset` lead there) or the argument itself.

    pointer: it is of a type that stands in no BTF, as typeparse makes them; `number` is then what that leads to.
    """

    types: KernelTypes
    module: str
    number: int
    path: str
    pointer: Leaf | None = None
    in_memory: bool = False
    user: bool = False
    offset: int = 0
    steps: list[Step] = field(default_factory=list)
    bit_field: Member | None = None

    @property
    def btf(self) -> Btf:
        return self.types.types(self.module)

    def record(self) -> Record:
        if self.pointer:
            return Record(0, btf.PTR, "", 0, False, self.number, 0)
        return self.btf.plain(self.number)

    def text(self) -> str:
        return self.pointer.text if self.pointer else text(self.btf, self.number)

    def at(self, leaf: Leaf) -> None:
        """At a value of that type."""
        self.pointer, self.number = None, leaf.number
        if leaf.kind is LeafKind.POINTER and leaf.of is not None:
            self.pointer, self.number = leaf, leaf.of.number

    def refuse(self, why: str, hint: str = "") -> MachineError:
        return _unsupported(f"{self.path}: {why}", hint)


def _walked(types: KernelTypes, start: Leaf, path: str) -> Resolved:
    if not path:
        return Resolved((), start)
    place = _Place(types, start.module, start.number, path, user=start.user)
    place.at(start)
    for part in _parts(path):
        if "name" in part:
            _member(place, part["name"])
        elif "index" in part:
            _element(place, int(part["index"]))
        else:
            _cast(place, part["tag"], part["cast"])
    leaf = _leaf(place)
    steps = (*place.steps, Step(place.offset, dereference=False, user=place.user))
    if any(abs(step.offset) > _MAX_OFFSET for step in steps):
        raise place.refuse("it leads too far away")
    return Resolved(steps, leaf)


def _parts(path: str) -> list[dict[str, str]]:
    """Each a name, an index, or a cast with its tag."""
    found: list[dict[str, str]] = []
    at = 0
    while at < len(path):
        match = _PART.match(path, at)
        dotted = path[at] == "."
        if match is None or (match["index"] is None and dotted == (at == 0)) or len(found) == _MAX_PARTS:
            raise _unsupported(
                f"{path}: no path of members", "such as sk_socket.file, [0].iov_base, (struct tcp_sock *).snd_cwnd"
            )
        found.append({key: value for key, value in match.groupdict().items() if value is not None})
        at = match.end()
    return found


def _follow(place: _Place, pointer: Record) -> None:
    """To where a pointer leads that the place is at."""
    if "percpu" in tags(place.btf, pointer.value):
        raise place.refuse(f"{place.text()} has a value for each CPU, and no place that could be read")
    user = "user" in tags(place.btf, pointer.value) or place.user
    leads_to = place.pointer.of if place.pointer else None
    _read(place)
    _enter(place, pointer.value, user=user)
    if leads_to is not None:
        place.at(leads_to)


def _read(place: _Place) -> None:
    """The word that is there becomes the address, if it is not the argument itself."""
    if place.in_memory:
        if len(place.steps) == MAX_STEPS:
            raise place.refuse(f"more than {MAX_STEPS} pointers to follow")
        place.steps.append(Step(place.offset, dereference=True, user=place.user))


def _enter(place: _Place, number: int, *, user: bool) -> None:
    place.pointer, place.in_memory, place.user, place.offset, place.number = None, True, user, 0, number


def _member(place: _Place, name: str) -> None:
    record = _whole(place, place.record())
    if record.kind == btf.PTR:
        _follow(place, record)
        record = _whole(place, place.record())
    if record.kind not in _STRUCTS:
        only = " is only declared" if record.kind == btf.FWD else " has no members"
        hint = "[0] is what a pointer points to" if record.kind == btf.PTR else ""
        raise place.refuse(f"{place.text()}{only}, so no {name}", hint)
    if not place.in_memory:
        raise place.refuse(f"{place.text()} is passed by value: its members cannot be read")
    found = place.btf.member(record.number, name)
    if found is None:
        missing = f"{text(place.btf, record.number)} has no member {name} in this kernel"
        raise place.refuse(missing, near(name, _names(place.btf, record)))
    place.offset += found.bit_offset // 8
    place.number = found.type
    place.bit_field = found if found.bit_size else None


def _element(place: _Place, index: int) -> None:
    record = place.record()
    if record.kind == btf.ARRAY:
        element, _, elements = place.btf.trailer(record, 0, 3)
        if elements and index >= elements:
            raise place.refuse(f"{place.text()} has no element {index}")
        place.number = element
    elif record.kind == btf.PTR:
        _follow(place, record)
    else:
        raise place.refuse(f"{place.text()} is neither an array nor a pointer, so no [{index}]")
    size = 8 if place.pointer else size_of(place.btf, place.number)
    if not size and index:
        raise place.refuse(f"the size of {place.text()} is not known, so no [{index}]")
    place.offset += index * size


def _whole(place: _Place, record: Record) -> Record:
    """The struct that is only declared here, where another BTF of this kernel has all of it."""
    if record.kind != btf.FWD:
        return record
    found = place.types.find(record.name, btf.UNION if record.flag else btf.STRUCT)
    if found is None:
        return record
    place.module, place.number = found
    return place.record()


def _cast(place: _Place, tag: str, name: str) -> None:
    found = place.types.find(name, *_KINDS[tag], module=place.module) or place.types.find(name, *_KINDS[tag])
    if found is None:
        raise place.refuse(f"{tag}{name} is not in this kernel's type information")
    module, number = found
    target = place.types.types(module).plain(number)
    if target.kind not in _STRUCTS:
        raise place.refuse(f"{name} is no struct")
    record = place.record()
    was = place.text()
    if record.kind == btf.INT and record.value == 8 and not place.bit_field:
        _read(place)
        _enter(place, number, user=place.user)
    elif record.kind == btf.ARRAY and _is_bytes(place.btf, place.btf.trailer(record, 0, 3)[0]):
        if target.value > size_of(place.btf, record.number):
            raise place.refuse(f"{tag}{name} has {target.value} bytes, more than {was}")
    else:
        if record.kind == btf.PTR:
            _follow(place, record)
            record = place.record()
        record = _whole(place, record)
        _shift(place, record, (module, target), was)
    place.module, place.number, place.bit_field = module, number, None


def _shift(place: _Place, record: Record, wanted: tuple[str, Record], was: str) -> None:
    """Moves the address to what is wanted, from what is there."""
    if not place.in_memory:
        raise place.refuse(f"{was} is passed by value: it has no address")
    if record.kind == 0 or _is_bytes(place.btf, record.number):
        return
    there, target = place.types.types(wanted[0]), wanted[1]
    if record.kind in _STRUCTS and target.kind in _STRUCTS:
        if _same(record, target):
            return
        around, within = _offsets(there, target, record), _offsets(place.btf, record, target)
        if len(around) == 1 and not within:
            place.offset -= around.pop()
            return
        if len(within) == 1 and not around:
            place.offset += within.pop()
            return
        if around or within:
            raise place.refuse(f"{target.name} and {record.name} contain each other in more than one place")
    raise place.refuse(f"{was} is nothing that could be taken for {text(there, target.number)}")


def _is_bytes(types: Btf, number: int) -> bool:
    record = types.plain(number)
    return record.kind == btf.INT and record.value == 1


def _same(one: Record, other: Record) -> bool:
    """Of one kernel: a module's BTF may describe a struct of the kernel's again."""
    return bool(one.name) and (one.kind, one.name, one.value) == (other.kind, other.name, other.value)


def _offsets(types: Btf, outer: Record, inner: Record) -> set[int]:
    """At which bytes of a struct there is one of another type: embedded, however deep, but not in an array."""
    found: set[int] = set()
    waiting = [(outer, 0)]
    visited = 0
    while waiting:
        record, base = waiting.pop()
        if record.value < inner.value:  # too small to hold it
            continue
        for each in types.members(record):
            visited += 1
            if visited > _MAX_VISITED:
                raise BtfError(f"{outer.name} has too many members to look for {inner.name}")
            member = types.plain(each.type)
            if member.kind in _STRUCTS and not each.bit_size:
                at = base + each.bit_offset // 8
                if _same(member, inner):
                    found.add(at)
                else:
                    waiting.append((member, at))
    return found


def _names(types: Btf, record: Record) -> list[str]:
    """Of all members, those of unnamed ones as well."""
    found: list[str] = []
    waiting, seen = [record], {record.number}
    while waiting and len(found) < _MAX_NAMES:
        for each in types.members(waiting.pop()):
            if each.name:
                found.append(each.name)
            elif (inner := types.plain(each.type)).kind in _STRUCTS and inner.number not in seen:
                seen.add(inner.number)
                waiting.append(inner)
            if len(found) == _MAX_NAMES:
                break
    return found


def _leaf(place: _Place) -> Leaf:
    if place.pointer is not None:
        return place.pointer
    leaf = place.types.leaf(place.module, place.number)
    if leaf.kind is LeafKind.VOID:
        _whole(place, place.record())
        leaf = place.types.leaf(place.module, place.number)
    if place.bit_field is None:
        return leaf
    return _bit_field(place, leaf, place.bit_field)


def _bit_field(place: _Place, leaf: Leaf, member: Member) -> Leaf:
    """The smallest aligned word that holds it all; of a packed one that crosses words, from its first byte on."""
    if member.bit_size > leaf.size * 8:
        raise BtfError(f"{member.name} has more bits than its type")
    start = place.offset - member.bit_offset // 8
    first = start * 8 + member.bit_offset
    for size in (1, 2, 4, 8):
        word = first // (8 * size) * size
        if first - word * 8 + member.bit_size <= 8 * size:
            place.offset = word
            return replace(leaf, size=size, bit_offset=first - word * 8, bit_size=member.bit_size)
    place.offset = first // 8
    if first % 8 + member.bit_size > 64:
        raise place.refuse(f"a bit-field of {member.bit_size} bits across words cannot be read")
    return replace(leaf, size=8, bit_offset=first % 8, bit_size=member.bit_size)


def _unsupported(message: str, hint: str = "") -> MachineError:
    return MachineError(message, reason="ArgumentUnsupported", hint=hint)
