# SPDX-License-Identifier: Apache-2.0
"""The compiling child: C text in, relocatable programs out. Runs with Debian's Python, standard library and bcc alone.

bcc is used as a compiler only. The maps it makes while compiling go with this process; the instructions leave it with
map names in place of descriptors, and the agent makes the maps and loads the programs itself (`loader`): modules then
share maps by name with nothing pinned anywhere, a killed agent leaves nothing behind, and what was compiled once can be
kept on disk.

Reads one JSON request on standard input and writes one JSON answer on standard output; clang's words stay on
descriptor 2, which the agent captures.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import json
import os
import resource
import struct
import sys
import time
from typing import Any

_LOAD_MAP = 0x18  # BPF_LD | BPF_IMM | BPF_DW
CPU_SECONDS = 120  # for a module, which takes one or two; ten times that on an emulated machine
MEMORY_BYTES = 4 << 30  # of addresses


def _constant(btf: Any, what: str) -> int:
    """An offset, a size, an enumerator's value, or the number itself. Raises BtfError."""
    kind, _, rest = what.partition(" ")
    if what.isdigit():
        return int(what)
    return int({"sizeof": btf.size, "enum": btf.enumerator}[kind](rest) if rest else btf.offset(what))


def _constants(wanted: dict[str, list[str]], reads: str) -> tuple[dict[str, int], Any]:
    """Offsets by name and how memory can be read; the cast (direct.Cast) by which it can, None where it is by helpers."""
    import direct  # beside this file, as btf and pidns
    import pidns
    from btf import BtfError

    btf, found = _kernel_types(), {}
    for name, paths in wanted.items():
        for path in paths:
            try:
                found[name] = _constant(btf, path)
                break
            except BtfError as error:
                problem = error
        else:
            raise problem
    cast = direct.find_cast(btf) if reads != "Helpers" else None
    pages = direct.direct_map(cast, found["KS_TASK_MM"], found["KS_MM_PGD"]) if cast else 0
    found |= pidns.constants(found)
    found |= {"KS_DIRECT": int(cast is not None), "KS_CAST_TYPE": cast.type if cast else 0}
    return {**found, "KS_USER_PAGES": int(pages > 0), "KS_DIRECT_MAP": pages}, cast


def _read_ahead() -> None:
    """What every request takes, before there is one. What is not there will be missed then."""
    with contextlib.suppress(Exception):
        import bcc  # noqa: F401

        _kernel_types()


@functools.cache
def _kernel_types() -> Any:
    from btf import Btf  # beside this file

    return Btf.of_kernel()


def _hide_symbols() -> None:
    """Nothing to read in /proc/kallsyms for this process: bcc parses all of it for each module, 0.1 s each, to learn whether
    the kernel has helpers that our text names itself. Where this is not permitted it does.
    """
    libc = ctypes.CDLL(None)
    new_namespace, private, bind = 0x20000, 1 << 18 | 1 << 14, 1 << 12  # CLONE_NEWNS, MS_PRIVATE | MS_REC, MS_BIND
    if libc.unshare(new_namespace) == 0 and libc.mount(b"none", b"/", None, private, None) == 0:
        libc.mount(b"/dev/null", b"/proc/kallsyms", None, bind, None)


def _limit(modules: int) -> None:
    """No text takes more than this, whatever it is: the kernel ends this process (SIGXCPU), or clang finds no memory."""
    hard_locked_memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    for what, most in ((resource.RLIMIT_CPU, CPU_SECONDS * modules), (resource.RLIMIT_AS, MEMORY_BYTES)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    for more in (resource.RLIM_INFINITY, hard_locked_memory):  # bcc's maps count as such before Linux 5.11
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (more, more))
            break


def _literal(value: int) -> str:
    return f"{value}ULL" if value >> 63 else str(value)


def _relocations(instructions: bytes, maps: dict[int, str]) -> list[tuple[int, str]]:
    found = []
    for at in range(0, len(instructions), 8):
        op, registers, _, immediate = struct.unpack_from("<BBhi", instructions, at)
        if op == _LOAD_MAP and registers >> 4 == 1:
            if immediate not in maps:
                raise ValueError(
                    f"instruction {at // 8} uses map descriptor {immediate}, which is no map of this module"
                )
            found.append((at // 8, maps[immediate]))
    return found


def _compile(
    bcc: Any, lib: Any, text: str, programs: list[str], flags: list[str], tokens: dict[int, str], cast: Any
) -> dict[str, Any]:
    import direct

    lib.bpf_table_name.restype = ctypes.c_char_p
    module = bcc.BPF(text=text, cflags=flags)
    maps, by_fd = {}, dict(tokens)
    for index in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, index).decode()
        by_fd[lib.bpf_table_fd_id(module.module, index)] = name
        maps[name] = {
            "type": lib.bpf_table_type_id(module.module, index),
            "key": lib.bpf_table_key_size_id(module.module, index),
            "value": lib.bpf_table_leaf_size_id(module.module, index),
            "entries": lib.bpf_table_max_entries_id(module.module, index),
            "flags": lib.bpf_table_flags_id(module.module, index),
        }
    answer: dict[str, Any] = {"maps": {}, "programs": {}}
    for program in programs:
        instructions = direct.calls_of_casts(module.dump_func(program.encode()), cast)
        relocations = _relocations(instructions, by_fd)
        answer["programs"][program] = {
            "instructions": base64.b64encode(instructions).decode(),
            "relocations": relocations,
        }
        answer["maps"].update({name: maps[name] for _, name in relocations})
    return answer


def main() -> int:
    """One request: {shim, kernel_version, reads, offsets, defines, flags, tokens, modules: {name: {text, programs}}}."""
    if sys.argv[1:] == ["ahead"]:
        _read_ahead()
    request = json.load(sys.stdin)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # bcc prints warnings on standard output
    os.environ["BCC_KERNEL_SOURCE"] = request["shim"]
    os.environ["BCC_LINUX_VERSION_CODE"] = str(request["kernel_version"])
    started = time.monotonic()
    answer: dict[str, Any] = {"modules": {}}
    try:
        offsets, cast = _constants(request["offsets"], request["reads"])
        defines = {**request["defines"], **offsets}
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent must hear it
        json.dump({"error": f"{type(error).__name__}: {error}", "stage": "btf"}, output)
        return 1
    answer["defines"] = defines
    if request["modules"]:
        _limit(len(request["modules"]))
        _hide_symbols()
        try:
            import bcc
            from bcc.libbcc import lib
        except ImportError as error:
            json.dump({"error": str(error), "stage": "import"}, output)
            return 1
    flags = request["flags"] + [f"-D{name}={_literal(value)}" for name, value in defines.items()]
    tokens = {int(token): name for token, name in request["tokens"].items()}
    for name, module in request["modules"].items():
        try:
            answer["modules"][name] = _compile(bcc, lib, module["text"], module["programs"], flags, tokens, cast)
        except Exception as error:  # noqa: BLE001
            json.dump({"error": f"{type(error).__name__}: {error}", "stage": "compile", "module": name}, output)
            return 1
    answer["seconds"] = time.monotonic() - started
    json.dump(answer, output)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
