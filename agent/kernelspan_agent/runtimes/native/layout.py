# SPDX-License-Identifier: Apache-2.0
"""What the kernel's tables hold, and how much: see bpf/runtimes/native.bpf.h."""

from __future__ import annotations

import numpy as np

from . import rows
from .room import QUARANTINE_NS

ROWS = 1 << 21  # of all files together: 16 MB
ROWS_EACH = 1 << 18  # of one; libjvm has 177,000
PARTS = 1 << 15  # of all processes together: 2 MB
PARTS_EACH = 512  # of one; a browser has 200
ROWS_MAP, PARTS_MAP = "ks_native_rows", "ks_native_parts"

# A piece of code that a process has mapped.
PART = np.dtype(
    [
        ("start", "<u8"),
        ("end", "<u8"),
        ("bias", "<u8"),  # from the file's addresses to the process's
        ("identity_at", "<u8"),  # where a part of the file's build id lies; 0: nothing else can lie there
        ("identity_low", "<u8"),
        ("identity_high", "<u8"),
        ("rows", "<u4"),  # the first
        ("count", "<u4"),
        ("object", "<u4"),  # the file's number
        ("pad", "<u4"),
    ]
)
CONSTANTS = {
    **rows.CONSTANTS,
    "KS_NATIVE_RBP_SHIFT": rows.RBP_SHIFT,
    "KS_NATIVE_OFFSET_SHIFT": rows.OFFSET_SHIFT,
    "KS_NATIVE_ROWS": ROWS,
    "KS_NATIVE_ROWS_EACH": ROWS_EACH,
    "KS_NATIVE_PARTS": PARTS,
    "KS_NATIVE_PARTS_EACH": PARTS_EACH,
    "KS_NATIVE_QUARANTINE_NS": QUARANTINE_NS,
}
