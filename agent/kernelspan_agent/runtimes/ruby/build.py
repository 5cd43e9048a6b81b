# SPDX-License-Identifier: Apache-2.0
"""What one file says about the Ruby it holds: version, and where its variables lie before relocation.

Only the file is read, so the answer holds for every process that runs it. `ruby_version` and the functions named here are
dynamic symbols of every build that can load extensions. What is no symbol (since 3.2 ruby_current_ec is hidden, as the
table of symbols always was) is where Ruby's own exported functions look for it: the instructions that the compilers make
for a thread-local variable are fixed by the ABI ("ELF Handling For Thread-Local Storage", general dynamic and local exec
on x86-64), and those of `rb_id2str` must show two variables at the distance that they have in `rb_symbols_t`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from kernelspan_agent.process import elf as elf_reader
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.registry import Unsupported

from .layout import BY_VERSION, OLDEST, TLS_DYNAMIC, TLS_FIXED, TLS_NONE, Offsets

VERSION, API_VERSION, PATCH, VM = "ruby_version", "ruby_api_version", "ruby_patchlevel", "ruby_current_vm_ptr"
CONTEXT_USERS = ("rb_thread_current", "rb_block_given_p")  # begin with asking for ruby_current_ec
NAMES, TABLE = "rb_id2str", "ruby_global_symbols"  # the table is a symbol of what nobody has stripped
VM_USERS = ("rb_gc_get_objspace", "rb_gc_enable")  # what of these there is begins with asking for the VM
LAUNCHED = b"\0ruby_run_node\0"  # what a program must call that is no more than Ruby's command line
_FUNCTION_BYTES, _NAMES_BYTES, _VERSION_BYTES = 64, 192, 24
_LAST_ID_TO_IDS = 16  # rb_symbols_t: last_id, str, ids
_PLAIN_VERSION = re.compile(rb"(\d{1,2})\.(\d{1,2})\.(\d{1,3})\Z")
_DYNAMIC = re.compile(rb"\x66\x48\x8d\x3d(....)(?:\x66\x66\x48\xe8|\x66\x48\xff\x15)", re.DOTALL)  # lea; call
# Of a program that has the variable itself: mov %fs:offset; what the linker makes of initial exec, mov $offset and mov %fs:(that);
# and of general dynamic, mov %fs:0 and lea offset(that).
_FIXED = re.compile(
    rb"\x64\x48\x8b[\x04\x0c\x14\x1c\x34\x3c]\x25(...\xff)"
    rb"|\x48\xc7[\xc0-\xc7](...\xff)\x64\x48\x8b[\x00-\x3f]"
    rb"|\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80(...\xff)",
    re.DOTALL,
)
_COMPARED = re.compile(rb"(?:\x39|\x3b)\x3d(....)", re.DOTALL)  # cmp with a variable
_LOADED = re.compile(rb"\x48\x8b[\x05\x0d\x15\x1d\x35\x3d](....)", re.DOTALL)  # mov of a variable
_DEREFERENCED = re.compile(rb"\x48\x8d\x05(....)\x48\x8b\x00", re.DOTALL)  # lea of a variable, mov of what is there
_JUMP = re.compile(rb"[\xe8\xe9](....)", re.DOTALL)  # or a call


@dataclass(frozen=True, slots=True)
class RubyBuild:
    """A Ruby that can be walked. Addresses are the file's own."""

    version: str
    numbers: tuple[int, int]
    offsets: Offsets
    tls: int
    head: (
        int  # TLS_NONE: ruby_current_vm_ptr; TLS_DYNAMIC: the pair that names ruby_current_ec; else the version's text
    )
    tls_offset: int  # TLS_FIXED
    symbols: int  # rb_symbols_t; 0: not found
    vm: int  # ruby_current_vm_ptr; 0: not found


@dataclass(frozen=True, slots=True)
class Launcher:
    """A program that is Ruby's command line, without Ruby itself: that is in a library."""


def inspect_file(fd: int, name: str = "") -> RubyBuild | Launcher | Unsupported | None:
    """The Ruby in the open ELF file with this base name; None where there is none. Raises ElfError."""
    elf = elf_reader.read_elf(fd)
    wanted = (VERSION, API_VERSION, PATCH, VM, TABLE, NAMES, *CONTEXT_USERS, *VM_USERS)
    found = elf_reader.symbol_addresses(elf, wanted, static="ruby" in name)
    if VERSION not in found:
        return Launcher() if "ruby" in name and _is_launcher(elf) else None
    text = elf_reader.read_address(elf, found[VERSION], _VERSION_BYTES).partition(b"\0")[0]
    match = _PLAIN_VERSION.match(text)
    if match is None:
        return Unsupported("RuntimeLayoutUnknown", "the file does not say which version of Ruby it holds", "Ruby")
    version, numbers = text.decode("ascii"), (int(match[1]), int(match[2]))
    if numbers < OLDEST:
        message = f"Ruby {version} is older than {OLDEST[0]}.{OLDEST[1]}"
        return Unsupported("RuntimeUnsupported", message, "Ruby", version)
    offsets = BY_VERSION.get(numbers)
    if offsets is None:
        known = ", ".join(f"{major}.{minor}" for major, minor in BY_VERSION)
        message = f"Ruby {version}: layouts are known of {known}"
        return Unsupported("RuntimeLayoutUnknown", message, "Ruby", version)
    message = _contradiction(elf, found, numbers)
    if message:
        return Unsupported("RuntimeLayoutUnknown", f"Ruby {version}: {message}", "Ruby", version)
    place = _place_of_context(elf, found, offsets)
    if place is None:
        message = f"Ruby {version}: where it keeps a thread's execution context is not to be seen in the file"
        return Unsupported("RuntimeLayoutUnknown", message, "Ruby", version)
    tls, head, offset = place
    vm = found.get(VM, 0) or _place_of_vm(elf, found)
    names = found.get(TABLE, 0) or _place_of_symbols(elf, found.get(NAMES, 0))
    return RubyBuild(version, numbers, offsets, tls, head, offset, names, vm)


def _contradiction(elf: elf_reader.Elf, found: dict[str, int], numbers: tuple[int, int]) -> str:
    """Why the file is not the release that it says it is; empty: it is. Raises ElfError."""
    if API_VERSION not in found or PATCH not in found:
        return f"it has no {API_VERSION} or no {PATCH}"
    api = struct.unpack("<II", elf_reader.read_address(elf, found[API_VERSION], 8))
    if api != numbers:
        return f"its interface is that of {api[0]}.{api[1]}"
    if _signed(elf_reader.read_address(elf, found[PATCH], 4)) < 0:  # RUBY_PATCHLEVEL of what is not released
        return "it is no release, its layout may be any"
    return "" if elf.machine == elf_reader.EM_X86_64 else "it is not for x86-64"


def _is_launcher(elf: elf_reader.Elf) -> bool:
    section = elf.section(".dynstr")
    if section is None:
        return False
    return any(LAUNCHED in chunk for _, chunk in elf_reader.section_chunks(elf, section, len(LAUNCHED)))


def _place_of_context(elf: elf_reader.Elf, found: dict[str, int], offsets: Offsets) -> tuple[int, int, int] | None:
    """How a thread's context is found, where that begins, offset; None where the functions that use it do not agree."""
    if offsets.vm_threads != 0xFFFF:
        return (TLS_NONE, found[VM], 0) if VM in found else None
    places: set[tuple[int, int, int]] = set()
    for name in CONTEXT_USERS:
        address = found.get(name, 0)
        code = _code(elf, address, _FUNCTION_BYTES)
        if match := _DYNAMIC.search(code):
            places.add((TLS_DYNAMIC, address + match.end(1) + _signed(match[1]), 0))
        elif match := _FIXED.search(code):
            places.add((TLS_FIXED, found[VERSION], _signed(match[1] or match[2] or match[3])))
        else:
            return None
    return places.pop() if len(places) == 1 else None


def _place_of_symbols(elf: elf_reader.Elf, function: int) -> int:
    """Address of the table of symbols, as `rb_id2str` and what it goes on to use it; 0: not to be seen."""
    pieces = [(function, _code(elf, function, _FUNCTION_BYTES))]
    for match in _JUMP.finditer(pieces[0][1]):
        target = function + match.end() + _signed(match[1])
        pieces.append((target, _code(elf, target, _NAMES_BYTES)))
    compared, loaded = (
        {address + match.end() + _signed(match[1]) for address, code in pieces for match in pattern.finditer(code)}
        for pattern in (_COMPARED, _LOADED)
    )
    tables = [last for last in compared if last + _LAST_ID_TO_IDS in loaded]
    return tables[0] if len(tables) == 1 else 0


def _place_of_vm(elf: elf_reader.Elf, found: dict[str, int]) -> int:
    """Address of ruby_current_vm_ptr; 0: not to be seen. It is for those who look; what it leads to is checked."""
    for name in VM_USERS:
        match = _DEREFERENCED.search(_code(elf, found.get(name, 0), _FUNCTION_BYTES))
        if match:
            return found[name] + match.end(1) + _signed(match[1])
    return 0


def _code(elf: elf_reader.Elf, address: int, size: int) -> bytes:
    if not address or address < 0:
        return b""
    try:
        return elf_reader.read_address(elf, address, size)
    except ElfError:
        return b""


def _signed(field: bytes) -> int:
    value: int = struct.unpack("<i", field)[0]
    return value
