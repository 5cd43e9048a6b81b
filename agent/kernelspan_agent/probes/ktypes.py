# SPDX-License-Identifier: Apache-2.0
"""What the kernel itself says of its functions, raw tracepoints and structs, for the user's own probes.

    with KernelTypes.open() as types:
        send = types.function("tcp_sendmsg")                            # None: the kernel does not describe it
        found = resolve(types, send.parameters[0].type, "sk_socket.file.f_inode.i_ino")   # of memberpath
        found.steps   # where to read: see Step
        found.leaf    # what is there: see Leaf

Opening takes 50 ms and 1.5 MB (7 MB where BTF cannot be mapped), given back by `close`: open it, ask all that a plan needs,
close it. Answers are values and stay good. Types are those of the running kernel only; modules' BTF is
read where a function or a type is a module's (Linux 5.11).
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf
from kernelspan_agent.probes.btf import Btf, BtfError, Record
from kernelspan_agent.probes.typetext import text

_SIGNED, _BOOL = 1, 4  # encodings of integers: BTF_INT_SIGNED, BTF_INT_BOOL
_SCALARS = {btf.INT: {1, 2, 4, 8, 16}, btf.ENUM: {1, 2, 4, 8}, btf.ENUM64: {1, 2, 4, 8}}  # bytes that the kernel takes
_TYPE_OF, _CALLER_OF = "btf_trace_", "__traceiter_"  # include/linux/tracepoint.h, include/trace/bpf_probe.h
_MAX_PARAMETERS = 32
_MAX_SIZE = 1 << 30
_MAX_MODULES = 1024


class LeafKind(enum.Enum):
    """What a value is, as far as its reader must know."""

    INTEGER = "integer"
    BOOL = "bool"
    ENUM = "enum"
    FLOAT = "float"
    POINTER = "pointer"
    STRING = "string"  # an array of char
    ARRAY = "array"
    STRUCT = "struct"  # or a union: the address of it is known
    FUNCTION = "function"
    VOID = "void"  # nothing, or a struct that is only declared


@dataclass(frozen=True, slots=True)
class Leaf:
    """What BTF says of a value.

    text: its type as C. size: its bytes, of an array all of them; 0: not known (void, a flexible array). Of a bit-field,
    `size` bytes (1, 2, 4, 8) are read, shifted right by bit_offset, and bit_size bits of that are the value. signed: of an
    integer or enum. elements: of an array; 0: flexible. of: an array's element, or what a pointer leads to; of a type
    that was found in BTF itself without `of`. user: BTF says that the pointer is one into the process's memory (kernels built with type tags, else False).
    module, number: where the type is described; pass the leaf to memberpath.resolve to go on from it.
    """

    kind: LeafKind
    text: str
    size: int
    signed: bool = False
    bit_offset: int = 0
    bit_size: int = 0
    elements: int = 0
    of: Leaf | None = None
    user: bool = False
    module: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter. `name` is empty where BTF has none.

    slot: its first word in the order in which words are passed: registers first (six on x86_64, eight on arm64), then the
    stack; also its index in a fentry program's or a raw tracepoint's context. It is not the parameter's position where a
    struct of two words comes before it. None: passed in memory.
    """

    name: str
    type: Leaf
    slot: int | None


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the kernel, or a raw tracepoint's.

    module: empty for the kernel itself. number: its id in that BTF (attach_btf_id of a fentry program), 0 for a raw
    tracepoint. returns: None for void. variadic: more parameters may follow.
    """

    name: str
    module: str
    number: int
    parameters: tuple[Parameter, ...]
    returns: Leaf | None
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step from a value to what is looked for: address += offset, then, if `dereference`, address = the word there.

    offset may be negative (a struct that contains the one pointed to). user: the address is one of the process's memory.
    """

    offset: int
    dereference: bool
    user: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """The way to a value, beginning with the argument's own value as the address.

    No steps: the argument itself is the value. Else all steps but the last dereference, and `leaf` lies at the address
    after the last: leaf.size bytes are to be read there, or, of a STRUCT, that address is the answer.
    """

    steps: tuple[Step, ...]
    leaf: Leaf


class KernelTypes:
    """The types of the running kernel and its modules, while it is open."""

    def __init__(self, directory: Path = btf.DIRECTORY) -> None:
        """Raises MachineError (KernelTooOld) where the kernel publishes no types."""
        self._directory = directory
        try:
            self.kernel = Btf.of_kernel(directory / btf.VMLINUX)
        except BtfError as error:
            raise MachineError(
                f"no type information of this kernel: {error}",
                reason="KernelTooOld",
                hint="a kernel with CONFIG_DEBUG_INFO_BTF=y publishes /sys/kernel/btf/vmlinux",
            ) from error
        self._modules: dict[str, Btf | None] = {}

    @classmethod
    def open(cls, directory: Path = btf.DIRECTORY) -> KernelTypes:
        """The same, for `with`."""
        return cls(directory)

    def __enter__(self) -> Self:
        """Open as it is."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes."""
        self.close()

    def close(self) -> None:
        """Gives the memory back."""
        for module in self._modules.values():
            if module is not None:
                module.close()
        self.kernel.close()

    def types(self, module: str) -> Btf:
        """The types of a module; of the kernel itself for "". Raises BtfError where there are none."""
        if not module:
            return self.kernel
        if module not in self._modules:
            self._modules[module] = self._module(module)
        found = self._modules[module]
        if found is None:
            raise BtfError(f"module {module} has no type information that can be read")
        return found

    def _module(self, name: str) -> Btf | None:
        if "/" in name or name in {"", ".", "..", btf.VMLINUX}:
            return None
        try:
            return Btf.of_module(self._directory / name, self.kernel)
        except BtfError:
            return None

    def modules(self) -> list[str]:
        """The modules that have type information."""
        try:
            names = sorted(path.name for path in self._directory.iterdir() if path.name != btf.VMLINUX)
        except OSError:
            return []
        return names[:_MAX_MODULES]

    def find(self, name: str, *kinds: int, module: str | None = None) -> tuple[str, int] | None:
        """The module ("" for the kernel) and number of a named type: in that module, or in any, the kernel first."""
        for each in ("", *self.modules()) if module is None else (module,):
            try:
                types = self.types(each)
                number = types.find(name, *kinds)
            except BtfError:
                continue
            if number is not None:
                return ("" if number < self.kernel.count else each), number
        return None

    def function(self, name: str, module: str | None = None) -> Function | None:
        """A function; None where no BTF describes one of that name, which does not mean that there is none.

        module: only that module's ("" for the kernel itself). Static functions that share a name but not their parameters
        are left out by the kernel's build. Raises MachineError (ArgumentUnsupported) for BTF that makes no sense.
        """
        found = self.find(name, btf.FUNC, module=module)
        if found is None:
            return None
        where, number = found
        with _told(f"function {name}"):
            types = self.types(where)
            return self._prototype(name, where, number, types.record(types.record(number).value), 0)

    def functions(self, names: Iterable[str]) -> dict[str, Function]:
        """Those of the names that are described, in one pass: for many names, where `function` looks for each."""
        wanted, found = set(names), {}
        for module in ("", *self.modules()):
            try:
                types = self.types(module)
                for number, name in types.of_kind(btf.FUNC):
                    if name in wanted and name not in found:
                        prototype = types.record(types.record(number).value)
                        found[name] = self._prototype(name, module, number, prototype, 0)
            except BtfError:
                continue
        return found

    def raw_tracepoint(self, name: str) -> Function | None:
        """A raw tracepoint's arguments, without the first that is the kernel's own; None where there is no such tracepoint.

        Names are those of the function that calls its probes (__traceiter_NAME, Linux 5.10), types those of btf_trace_NAME.
        """
        found = self.find(_TYPE_OF + name, btf.TYPEDEF)
        if found is None:
            return None
        with _told(f"tracepoint {name}"):
            return self._raw(name, *found, self.types(found[0]).find(_CALLER_OF + name, btf.FUNC))

    def raw_tracepoints(self, names: Iterable[str]) -> dict[str, Function]:
        """The same for many, in one pass; those that are not described are left out."""
        wanted, found = set(names), {}
        for module in ("", *self.modules()):
            try:
                types = self.types(module)
                described = {name: number for number, name in types.of_kind(btf.TYPEDEF) if name.startswith(_TYPE_OF)}
                callers = {name: number for number, name in types.of_kind(btf.FUNC) if name.startswith(_CALLER_OF)}
                for name in wanted & {each.removeprefix(_TYPE_OF) for each in described}:
                    found[name] = self._raw(name, module, described[_TYPE_OF + name], callers.get(_CALLER_OF + name))
            except BtfError:
                continue
        return found

    def _raw(self, name: str, module: str, number: int, caller: int | None) -> Function:
        types = self.types(module)
        prototype = types.plain(types.plain(number).value)
        named = types.record(types.record(caller).value) if caller is not None else None
        if named is not None and named.count == prototype.count:
            prototype = named
        return replace(self._prototype(name, module, 0, prototype, 1), returns=None)

    def _prototype(self, name: str, module: str, number: int, record: Record, skipped: int) -> Function:
        types = self.types(module)
        if record.kind != btf.FUNC_PROTO or record.count > _MAX_PARAMETERS:
            raise BtfError("no prototype that can be read")
        given = [types.trailer(record, index, 2) for index in range(skipped, record.count)]
        variadic = bool(given) and not given[-1][1]
        parameters: list[Parameter] = []
        slot = 0
        for offset, type_number in given[: len(given) - variadic]:
            leaf = self.leaf(module, type_number)
            in_memory = leaf.size > 16 and leaf.kind in {LeafKind.STRUCT, LeafKind.FLOAT}
            parameters.append(Parameter(types.name(offset), leaf, None if in_memory else slot))
            slot += 0 if in_memory else max(1, (leaf.size + 7) // 8)
        returns = self.leaf(module, record.value) if record.value else None
        return Function(name, module, number, tuple(parameters), returns, variadic)

    def leaf(self, module: str, number: int, *, deep: bool = True) -> Leaf:
        """What is known of a type. Raises BtfError."""
        types = self.types(module)
        record = types.plain(number)
        made = Leaf(LeafKind.VOID, text(types, number), 0, module=module, number=number)
        if record.kind in _SCALARS and record.value not in _SCALARS[record.kind]:
            raise BtfError(f"{made.text} has {record.value} bytes")
        if record.kind == btf.INT:
            (encoding,) = types.trailer(record, 0, 1)
            kind = LeafKind.BOOL if encoding >> 24 & _BOOL else LeafKind.INTEGER
            return replace(made, kind=kind, size=record.value, signed=bool(encoding >> 24 & _SIGNED))
        if record.kind in {btf.ENUM, btf.ENUM64}:
            return replace(made, kind=LeafKind.ENUM, size=record.value, signed=_signed_enum(types, record))
        if record.kind == btf.FLOAT:
            return replace(made, kind=LeafKind.FLOAT, size=record.value)
        if record.kind in {btf.STRUCT, btf.UNION}:
            return replace(made, kind=LeafKind.STRUCT, size=record.value)
        if record.kind == btf.FUNC_PROTO:
            return replace(made, kind=LeafKind.FUNCTION)
        if record.kind == btf.PTR:
            of = self.leaf(module, record.value, deep=False) if deep else None
            return replace(made, kind=LeafKind.POINTER, size=8, of=of, user="user" in tags(types, record.value))
        if record.kind == btf.ARRAY:
            return self._array(made, types, record, deep=deep)
        return made

    def _array(self, made: Leaf, types: Btf, record: Record, *, deep: bool) -> Leaf:
        element, _, elements = types.trailer(record, 0, 3)
        plain = types.plain(element)
        kind = LeafKind.STRING if plain.kind == btf.INT and plain.name == "char" else LeafKind.ARRAY
        of = self.leaf(made.module, element, deep=False) if deep else None
        return replace(made, kind=kind, size=size_of(types, record.number), elements=elements, of=of)


def size_of(types: Btf, number: int) -> int:
    """Bytes of a type; 0 where it is not known. Raises BtfError."""
    elements = 1
    for _ in range(btf.MAX_DEPTH):
        record = types.plain(number)
        if record.kind == btf.ARRAY:
            number, _, count = types.trailer(record, 0, 3)
            elements *= count
        elif record.kind == btf.PTR:
            return 8 * elements
        else:
            sized = {btf.INT, btf.STRUCT, btf.UNION, btf.ENUM, btf.ENUM64, btf.FLOAT}
            size = record.value * elements if record.kind in sized else 0
            if size > _MAX_SIZE:
                raise BtfError(f"type {number} has {size} bytes")
            return size
    raise BtfError(f"type {number}: arrays without end")


def tags(types: Btf, number: int) -> set[str]:
    """What type tags say of a type: user, percpu, rcu."""
    found: set[str] = set()
    for _ in range(btf.MAX_DEPTH):
        record = types.record(number)
        if record.kind == btf.TYPE_TAG:
            found.add(record.name)
        elif record.kind not in btf.MODIFIERS:
            break
        number = record.value
    return found


def _signed_enum(types: Btf, record: Record) -> bool:
    """kind_flag says it since Linux 6.0; before, a value that is negative does."""
    if record.flag or record.kind == btf.ENUM64:
        return record.flag
    return any(types.trailer(record, index, 2)[1] >> 31 for index in range(min(record.count, 4096)))


@contextlib.contextmanager
def _told(of: str) -> Iterator[None]:
    """BtfError as an error for the user."""
    try:
        yield
    except BtfError as error:
        raise MachineError(f"{of}: this kernel's type information: {error}", reason="ArgumentUnsupported") from error
