# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) calls the agent makes: maps, programs, raw tracepoints. One function a command, errors as OSError.

Source: include/uapi/linux/bpf.h (union bpf_attr); every attribute set is padded with zeros, as the kernel demands.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)
_ATTR_BYTES = 144

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD, PROG_TEST_RUN = 0, 1, 2, 3, 4, 5, 10
QUERY_INFO, RAW_TRACEPOINT_OPEN, BTF_OPEN, BTF_NEXT, MAP_UPDATE_BATCH, LINK_CREATE, ENABLE_STATS = (
    15,
    17,
    19,
    23,
    26,
    28,
    32,
)

EXIST = 2  # BPF_EXIST
MAP_TYPES = {"hash": 1, "array": 2, "prog_array": 3, "percpu_array": 6, "lru_hash": 9, "ringbuf": 27}
PROG_KPROBE, PROG_TRACEPOINT, PROG_RAW_TRACEPOINT, PROG_TRACING = 2, 5, 17, 26
# enum bpf_attach_type
ATTACH_FENTRY, ATTACH_FEXIT, ATTACH_PERF_EVENT, ATTACH_KPROBE_MULTI, ATTACH_UPROBE_MULTI = 24, 25, 41, 42, 48


def instruction(op: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One instruction of a program: Documentation/bpf/standardization/instruction-set.rst."""
    return struct.pack("<BBhi", op, source << 4 | to, offset, immediate)


NOTHING = instruction(0xB7) + instruction(0x95)  # r0 = 0; exit


def counts(map_fd: int) -> bytes:
    """A program that adds one to the first value, a u64, of an array."""
    return (
        instruction(0x62, 10, offset=-4)  # *(u32 *)(r10 - 4) = 0
        + instruction(0xBF, 2, 10)  # r2 = r10
        + instruction(0x07, 2, immediate=-4)  # r2 += -4
        + instruction(0x18, 1, 1, immediate=map_fd)  # r1 = the map
        + instruction(0)
        + instruction(0x85, immediate=1)  # bpf_map_lookup_elem
        + instruction(0x15, 0, offset=2)  # if r0 == 0 goto out
        + instruction(0xB7, 1, immediate=1)  # r1 = 1
        + instruction(0xDB, 0, 1)  # lock *(u64 *)r0 += r1
        + NOTHING
    )


def call(command: int, attributes: bytes) -> int:
    """One bpf(2); gives what the kernel gives, or raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    result = int(_libc.syscall(_SYS_BPF, command, buffer, _ATTR_BYTES))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def map_create(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int, name: str) -> int:
    """A new map's descriptor."""
    return call(
        MAP_CREATE, struct.pack("<IIIIIII16s", kind, key_bytes, value_bytes, entries, flags, 0, 0, name.encode()[:15])
    )


def _element(command: int, fd: int, key: int, value: int, flags: int = 0) -> int:
    return call(command, struct.pack("<IIQQQ", fd, 0, key, value, flags))


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The value of a key; None where it is not there. Per-CPU maps: `value_bytes` is that of all CPUs."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_bytes)
    try:
        _element(MAP_LOOKUP, fd, ctypes.addressof(k), ctypes.addressof(v))
    except FileNotFoundError:
        return None
    return v.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Sets a key's value; with EXIST only of a key that is there, else FileNotFoundError."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _element(MAP_UPDATE, fd, ctypes.addressof(k), ctypes.addressof(v), flags)


def map_update_many(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Sets many keys' values; both lie one behind the other (Linux 5.6)."""
    k, v = ctypes.create_string_buffer(keys, len(keys)), ctypes.create_string_buffer(values, len(values))
    places = (ctypes.addressof(k), ctypes.addressof(v))
    call(MAP_UPDATE_BATCH, struct.pack("<QQQQIIQQ", 0, 0, *places, count, fd, 0, 0))


def map_delete(fd: int, key: bytes) -> bool:
    """Removes a key; False where it was not there."""
    k = ctypes.create_string_buffer(key, len(key))
    try:
        _element(MAP_DELETE, fd, ctypes.addressof(k), 0)
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, key_bytes: int, limit: int = 1 << 20) -> list[bytes]:
    """The keys at this moment; a map that changes meanwhile may give some twice or not at all."""
    keys: list[bytes] = []
    key: ctypes.Array[ctypes.c_char] | None = None
    following = ctypes.create_string_buffer(key_bytes)
    while len(keys) < limit:
        try:
            _element(MAP_NEXT_KEY, fd, ctypes.addressof(key) if key is not None else 0, ctypes.addressof(following))
        except FileNotFoundError:
            break
        keys.append(following.raw)
        key = ctypes.create_string_buffer(following.raw, key_bytes)
    return keys


class VerifierError(OSError):
    """The kernel refused a program; `log` is what the verifier wrote."""

    log = ""


_LOG_BYTES = (1 << 24) - 1  # the most Linux 5.10 takes; a log that does not fit hides what it ends with
_LOG_STEPS, _LOG_STATS = 1, 4


@dataclass(frozen=True, slots=True)
class Target:
    """What a program is loaded for, beyond its kind: ATTACH_*, and for fentry and fexit the function.

    `function`: its number in BTF; `module_fd`: of the BTF it is in, 0 for the kernel's own.
    """

    attach_type: int = 0
    function: int = 0
    module_fd: int = 0


ANYWHERE = Target()


def prog_load(kind: int, instructions: bytes, name: str, target: Target = ANYWHERE) -> int:
    """A loaded program's descriptor; VerifierError with the verifier's log where the kernel refuses it."""
    try:
        return _prog_load(kind, instructions, name, 0, None, target)
    except OSError as first:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _prog_load(kind, instructions, name, _LOG_STEPS, log, target)
        except OSError:
            error = VerifierError(first.errno, f"{name}: {first.strerror}")
            error.log = log.value.decode(errors="replace")
            raise error from first


def prog_cost(kind: int, instructions: bytes, name: str, target: Target = ANYWHERE) -> int:
    """How many instructions the verifier follows to accept a program, as it says itself (on every kernel)."""
    log = ctypes.create_string_buffer(4096)
    os.close(_prog_load(kind, instructions, name, _LOG_STATS, log, target))
    return int(log.value.decode().split("processed ")[1].split()[0])


def _prog_load(
    kind: int, instructions: bytes, name: str, level: int, log: ctypes.Array[ctypes.c_char] | None, target: Target
) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_name = ctypes.create_string_buffer(b"Dual BSD/GPL")
    version = [int(part) for part in platform.release().split("-")[0].split(".")[:3] if part.isdigit()]
    attributes = struct.pack(
        "<IIQQIIQII16sII32xIII",
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_name),
        level,
        len(log) if log is not None else 0,
        ctypes.addressof(log) if log is not None else 0,
        (version[0] << 16) + (version[1] << 8) + min([*version, 0][2], 255),
        0,
        name.encode()[:15],
        0,
        target.attach_type,
        0,
        target.function,
        target.module_fd,
    )
    return call(PROG_LOAD, attributes)


def link_create(program_fd: int, attach_type: int, rest: bytes = b"", *, target_fd: int = 0) -> int:
    """Attaches a program; closing the descriptor detaches it. `rest`: what this type wants after the flags (Linux 5.7)."""
    return call(LINK_CREATE, struct.pack("<IIII", program_fd, target_fd, attach_type, 0) + rest)


_UNTOLD = 0xFFFF_FFFF_FFFF_FFFF
_LINK_PERF_EVENT, _LINK_KPROBE_MULTI = 7, 8  # enum bpf_link_type
_MISSED_AT = {_LINK_PERF_EVENT: 48, _LINK_KPROBE_MULTI: 32}  # struct bpf_link_info: perf_event.kprobe, kprobe_multi
_KPROBES = (3, 4)  # enum bpf_perf_event_type: kprobe, kretprobe


def link_missed(fd: int) -> int | None:
    """How many calls a kprobe, kretprobe or kprobe.multi left out (Linux 6.7); None where that is not told."""
    try:
        kind, _, _, _, perf_kind = struct.unpack("<5I", _link_info(fd, bytes(20)))
        at = _MISSED_AT.get(kind)
        if at is None or (kind == _LINK_PERF_EVENT and perf_kind not in _KPROBES):
            return None
        # The kernel leaves what it does not know as it is, and refuses what lies beyond its struct.
        (missed,) = struct.unpack_from("<Q", _link_info(fd, bytes(at) + struct.pack("<Q", _UNTOLD)), at)
    except OSError:
        return None
    return None if missed == _UNTOLD else int(missed)


def _link_info(fd: int, asked: bytes) -> bytes:
    info = ctypes.create_string_buffer(asked, len(asked))
    call(QUERY_INFO, struct.pack("<IIQ", fd, len(asked), ctypes.addressof(info)))
    return info.raw


def raw_tracepoint_open(program_fd: int, name: str = "") -> int:
    """Attaches a raw tracepoint program, or without a name a tracing program, which knows its function itself."""
    text = ctypes.create_string_buffer(name.encode())
    return call(RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(text) if name else 0, program_fd))


def test_run(program_fd: int, arguments: Sequence[int]) -> int:
    """What a raw tracepoint program gives when it is run once, now and here, with these arguments: 32 bits."""
    context = ctypes.create_string_buffer(struct.pack(f"<{len(arguments)}Q", *arguments), 8 * len(arguments))
    # prog_fd, retval, sizes and addresses of data, repeat, duration, sizes of ctx, its address
    attributes = struct.pack(
        "<IIIIQQIIIIQ", program_fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(context)
    )
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    if _libc.syscall(_SYS_BPF, PROG_TEST_RUN, buffer, _ATTR_BYTES) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(struct.unpack_from("<I", buffer, 4)[0])


def enable_stats() -> int:
    """Makes the kernel time every program until the descriptor is closed (Linux 5.8)."""
    return call(ENABLE_STATS, struct.pack("<I", 0))


def prog_info(fd: int) -> dict[str, int]:
    """Run time (ns) and count of a program (only while kernel.bpf_stats_enabled), skipped runs, verified instructions."""
    info = ctypes.create_string_buffer(256)
    call(QUERY_INFO, struct.pack("<IIQ", fd, 256, ctypes.addressof(info)))
    # struct bpf_prog_info: run_time_ns at 192, run_cnt 200, recursion_misses 208, verified_insns 216
    run_time_ns, run_count, skipped, verified = struct.unpack_from("<QQQI", info.raw, 192)
    return {"run_time_ns": run_time_ns, "run_count": run_count, "skipped": skipped, "verified_instructions": verified}


def prog_missed(fd: int) -> int | None:
    """How many runs of a program the kernel left out to prevent recursion (Linux 5.12); None where it does not count."""
    length, at = 216, 208  # struct bpf_prog_info: recursion_misses
    info = ctypes.create_string_buffer(bytes(at) + struct.pack("<Q", _UNTOLD), length)
    try:
        call(QUERY_INFO, struct.pack("<IIQ", fd, length, ctypes.addressof(info)))  # E2BIG: its struct is shorter
    except OSError:
        return None
    return int(struct.unpack_from("<Q", info.raw, at)[0])


def next_btf(number: int) -> int:
    """The number of the next object of BTF after this one's (0: the first); FileNotFoundError after the last."""
    buffer = ctypes.create_string_buffer(struct.pack("<I", number), _ATTR_BYTES)
    if _libc.syscall(_SYS_BPF, BTF_NEXT, buffer, _ATTR_BYTES) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(struct.unpack_from("<I", buffer, 4)[0])


def btf_open(number: int) -> int:
    """A descriptor of an object of BTF (CAP_SYS_ADMIN)."""
    return call(BTF_OPEN, struct.pack("<I", number))


def btf_name(fd: int) -> str:
    """What an object of BTF is called: vmlinux, a module's name; empty for a program's."""
    name = ctypes.create_string_buffer(64)
    # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf
    info = ctypes.create_string_buffer(struct.pack("<QIIQII", 0, 0, 0, ctypes.addressof(name), len(name), 0))
    call(QUERY_INFO, struct.pack("<IIQ", fd, 32, ctypes.addressof(info)))
    return name.value.decode(errors="replace")
