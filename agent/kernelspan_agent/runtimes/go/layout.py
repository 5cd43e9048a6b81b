# SPDX-License-Identifier: Apache-2.0
"""Where Go's runtime keeps what the walk needs, by minor version, and what the kernel's row holds.

From the debug information that each version's own linker writes (`ptype /o` of runtime.g, runtime.m, runtime.gobuf and
runtime.moduledata), x86-64, 1.18 to 1.26: the newest patch of each. funcIDs: internal/abi/symtab.go. The rest of what is read, the table of functions, has a
number of its own for its layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# FRAME["owner"]: on which stack a frame lies
OWN, SYSTEM, LEFT = 0, 1, 2  # the goroutine's; the thread's (g0); the goroutine's, behind frames of g0
# In FRAME["pc"]: where the next frame lies is known otherwise; of the first of LEFT the rest says how far from there.
FRAME = 1 << 63

GO_LAYOUT = np.dtype(
    [
        ("tls", "<i8"),  # of the variable that holds runtime.g, from the thread pointer
        ("version", "<u4"),  # minor
        ("goid", "<u2"),  # in runtime.g
        ("sched_sp", "<u2"),
        ("sched_bp", "<u2"),
        ("curg", "<u2"),  # in runtime.m
        ("callback_left", "<u2"),  # see Callback
        ("callback_frame", "<u2"),
    ]
)


@dataclass(frozen=True, slots=True)
class Offsets:
    """Of one minor version."""

    goid: int
    curg: int
    sched_bp: int
    function_data: int  # gofunc in runtime.moduledata
    record_bytes: int  # of a function in the table, without its lists
    inlined_bytes: int  # of an inlined call
    wrapper: int  # funcID of what the compiler puts between a call and a method
    syscall_bp: int = 0  # in runtime.g; 0: there is none. Before it lies syscallpc
    sched_sp: int = 56


_TO_1_19 = Offsets(152, 192, 104, 304, 40, 20, 21)
_TO_1_21 = Offsets(152, 192, 104, 320, 44, 16, 21)
_1_22 = Offsets(152, 192, 104, 320, 44, 16, 22)
_TO_1_24 = Offsets(160, 192, 104, 320, 44, 16, 22, 128)
_FROM_1_25 = Offsets(152, 184, 96, 320, 44, 16, 23, 120)
BY_MINOR = {
    18: _TO_1_19,
    19: _TO_1_19,
    20: _TO_1_21,
    21: _TO_1_21,
    22: _1_22,
    23: _TO_1_24,
    24: _TO_1_24,
    25: _FROM_1_25,
    26: _FROM_1_25,
}
OLDEST, NEWEST = min(BY_MINOR), max(BY_MINOR)


@dataclass(frozen=True, slots=True)
class Callback:
    """What lies on a goroutine's stack between the Go that C has called and the Go that called C.

    `left`: from behind the frame of runtime.cgocallbackg to the stack pointer that the goroutine left with; 0: not known.
    `frame`: from there to the next frame, where runtime.asmcgocall keeps none; else 0: the next frame lies there.
    """

    left: int = 0
    frame: int = 0


def kernel_row(offsets: Offsets, minor: int, tls: int, callback: Callback) -> np.ndarray:
    """The GO_LAYOUT row (shape (1,)) of a version; `tls`: see there. Programs of one version mostly have the same."""
    row = np.zeros(1, GO_LAYOUT)
    row["tls"], row["version"] = tls, minor
    row["callback_left"], row["callback_frame"] = callback.left, callback.frame
    for name in ("goid", "sched_sp", "sched_bp", "curg"):
        row[name] = getattr(offsets, name)
    return row
