# SPDX-License-Identifier: Apache-2.0
"""The reading child: libraries in C and Rust on bytes of other people's files, out of the agent's reach and memory.

Demanglers recurse by the letters of a name and can print a short one as gigabytes; a disassembler costs 20 MB once it is
imported. Both are wanted seldom. So they run here, with limits on memory and CPU, and what goes wrong is the child's end.

    child.py demangle   names on standard input, each ended by NUL; for each a length (u32) and the demangled name, none: 0
    child.py returns    for each function the number of its parts (u64), of each its address and size (u64, u64) and its code;
                        a list of answers in JSON
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import Any

MEMORY_BYTES = 128 << 20  # of addresses; what is used is some 30 MB, 60 with the disassembler
CPU_SECONDS = 3  # 20,000 names of a C++ library take 0.1
MAX_SHOWN_BYTES = 16 << 10  # of one name
MAX_ANSWER_BYTES = 16 << 20  # then it ends, and another one goes on
MAX_CHECK_BYTES = 64  # of the longest check, for a large frame, some 40


def demangle() -> None:
    """Until the input or the room for answers ends; each answer is written at once, so that the next may kill us."""
    import pycxxfilt  # noqa: PLC0415 - the one job needs not what the other does

    written = 0
    for name in sys.stdin.buffer.read().split(b"\0")[:-1]:
        try:
            found = pycxxfilt.demangle(name.decode("ascii")) or ""
        except (ValueError, MemoryError):  # no mangled name after all; or one that would fill the memory
            found = ""
        shown = found.encode("utf-8", "surrogateescape") if len(found) <= MAX_SHOWN_BYTES else b""
        sys.stdout.buffer.write(struct.pack("<I", len(shown)) + shown)
        sys.stdout.buffer.flush()
        written += len(shown) + 4
        if written > MAX_ANSWER_BYTES:
            return


def returns(parts: list[tuple[int, bytes]]) -> dict[str, Any]:
    """`returns`: addresses of the function's RET instructions; `body`: where it goes on once its stack is large enough.

    `parts`: its code as (address, bytes), and behind it such as may be its own as well (what a compiler has put aside): it
    is where a jump leads there. `problem` where that is not certain.
    """
    import iced_x86  # noqa: PLC0415

    flow, found = iced_x86.FlowControl, []
    jumps: list[tuple[int, int, int]] = []  # where it is, what follows it, where it leads
    calls: list[int] = []
    entry, mine = parts[0][0], [0]
    for part in mine:  # grows on the way
        for at in iced_x86.Decoder(64, parts[part][1], ip=parts[part][0]):
            if at.code == iced_x86.Code.INVALID:
                return {"problem": f"no instruction is known at {at.ip:#x}"}
            if at.flow_control == flow.RETURN:
                found.append(at.ip)
            elif at.flow_control in {flow.CALL, flow.INDIRECT_CALL}:
                calls.append(at.ip)
            elif at.flow_control in {flow.UNCONDITIONAL_BRANCH, flow.CONDITIONAL_BRANCH}:
                to = at.near_branch_target
                leads_to = next((n for n, (begin, code) in enumerate(parts) if begin <= to < begin + len(code)), None)
                if leads_to is None:
                    return {"problem": f"it goes on in another function, by a jump at {at.ip:#x}"}
                if leads_to not in mine:
                    mine.append(leads_to)
                jumps.append((at.ip, at.next_ip, to))
            elif at.flow_control == flow.INDIRECT_BRANCH and not (
                at.op0_kind == iced_x86.OpKind.MEMORY and at.memory_index_scale == 8  # a switch's table
            ):
                return {"problem": f"it jumps to what is only known when it runs, at {at.ip:#x}"}
    return {"returns": found, "body": _body(entry, jumps, calls, found)}


def _body(entry: int, jumps: list[tuple[int, int, int]], calls: list[int], found: list[int]) -> int:
    """Behind the jumps from the entry to a block that does but one thing, a call that the function begins anew after."""
    for at, _, target in jumps:
        grows = jumps[0][2]  # if it begins with a check, its first jump leads there
        if target != entry or not grows < at:
            continue
        others = [ip for ip, _, _ in jumps if grows <= ip < at] + [ip for ip in found if grows <= ip < at]
        if others or sum(grows <= ip < at for ip in calls) != 1:
            continue
        body = entry
        for ip, following, leads_to in jumps:
            if leads_to != grows or ip - entry > MAX_CHECK_BYTES or any(call < ip for call in calls):
                break
            body = following
        return body
    return entry


def main() -> None:
    """Does what it is asked."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.argv[1] == "demangle":
        demangle()
    else:
        data, at, answers = sys.stdin.buffer.read(), 0, []
        while at < len(data):
            (count,) = struct.unpack_from("<Q", data, at)
            at += 8
            parts = []
            for _ in range(count):
                address, size = struct.unpack_from("<QQ", data, at)
                at += 16 + size
                parts.append((address, data[at - size : at]))
            answers.append(returns(parts))
        print(json.dumps(answers))


if __name__ == "__main__":
    main()
