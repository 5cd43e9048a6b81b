# SPDX-License-Identifier: Apache-2.0
"""Where PHP keeps what the walk and the symboliser need, by minor version, and what the kernel's rows and records hold.

offsetof() over the headers of Debian's php-dev packages (7.4, 8.2, 8.4, 8.5, 8.6), x86-64; of 8.0, 8.1 and 8.3 from the
structs of phpspy and of the OpenTelemetry eBPF profiler, which agree. A layout is fixed within a minor version: its
number is that of the API (ZEND_MODULE_API_NO), which every build bears, and a build with another number is none of these.
Builds with threads have the same structs, but no EG at a fixed address.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABSENT = 0xFFFF

# FRAME["owner"] and what else the kernel's programs are compiled with
INTERNAL, USER, MAIN, EVAL = 1, 2, 3, 4  # zend_function.type; MAIN: a script's own code that nobody in PHP has called
UNREAD = 0x80  # a string was not resident: the frame's code is made of its address, see bpf/runtimes/php.bpf.h
CUT_NAME, CUT_CLASS, CUT_FILE = 1, 2, 4  # PHP_CODE["flags"]: a text is longer than what was sent
MISSING = 8  # times one of these: its page was not resident; the string is at its address

PHP_LAYOUT = np.dtype(
    [
        ("generator_class", "<i8"),  # address of zend_ce_generator minus that of EG(current_execute_data); 0: not known
        ("frameless_functions", "<i8"),  # address of zend_flf_functions minus that
        ("version", "<u4"),  # as PHP_VERSION_ID
        ("op_array_opcodes", "<u2"),  # in zend_op_array
        ("op_array_file", "<u2"),  # then first and last line, u32 each
        ("generator_frame", "<u2"),  # execute_data in zend_generator
        ("generator_parent", "<u2"),  # node.parent in zend_generator
        ("before_exception", "<u2"),  # opline_before_exception in EG, minus current_execute_data
        ("frameless", "<u2"),  # ZEND_FRAMELESS_ICALL_0, the first of four opcodes; ABSENT: there are none
    ]
)

# Record of the ring that names a function; then come the texts of name, class and file, one after the other.
PHP_CODE = np.dtype(
    [
        ("kind", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("time", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("layout", "<u4"),
        ("flags", "<u4"),  # which text was too long and is cut
        ("code", "<u8"),  # as FRAME["code"]
        ("name_at", "<u8"),  # the strings
        ("class_at", "<u8"),
        ("file_at", "<u8"),
        ("name_bytes", "<u2"),  # 0: code of a file, or of eval
        ("class_bytes", "<u2"),  # 0: no method
        ("file_bytes", "<u2"),  # 0: an internal function
        ("unused", "<u2"),
    ]
)


@dataclass(frozen=True, slots=True)
class Symbols:
    """Addresses of PHP's variables; 0: not exported, not known."""

    globals: int
    generator: int = 0
    frameless: int = 0

    def moved(self, bias: int) -> Symbols:
        """The same, where the file is loaded with this bias."""
        return Symbols(*(at + bias if at else 0 for at in (self.globals, self.generator, self.frameless)))


@dataclass(frozen=True, slots=True)
class Offsets:
    """Those that differ between versions. `api`: ZEND_MODULE_API_NO."""

    api: int
    current_execute_data: int  # in EG
    op_array_opcodes: int
    op_array_file: int
    generator_frame: int = 56
    generator_parent: int = 152
    before_exception: int = ABSENT  # in EG
    frameless: int = ABSENT


BY_VERSION = {
    (7, 4): Offsets(20190902, 488, 64, 136, 64, 160, 880),
    (8, 0): Offsets(20200930, 488, 72, 144, ABSENT, ABSENT),
    (8, 1): Offsets(20210902, 488, 72, 144, ABSENT, ABSENT),
    (8, 2): Offsets(20220829, 488, 88, 152, before_exception=880),
    (8, 3): Offsets(20230831, 488, 80, 144),
    (8, 4): Offsets(20240924, 488, 104, 168, before_exception=952, frameless=204),
    (8, 5): Offsets(20250925, 512, 104, 168, before_exception=976, frameless=204),
    (8, 6): Offsets(20260924, 512, 104, 168, before_exception=1016, frameless=204),
}
OLDEST, NEWEST = min(BY_VERSION), max(BY_VERSION)

# The same in every version.
EXECUTE_DATA_BYTES = 56  # opline 0, func 24, This 32, its type 40, previous 48
FUNCTION_NAME, FUNCTION_CLASS, CLASS_NAME = 8, 16, 8
STRING_HASH, STRING_LENGTH, STRING_TEXT = 8, 16, 24
OBJECT_CLASS = 16
EXTENDED, LINE, OPCODE = 20, 24, 28  # in zend_op
FRAMELESS_OPCODES = 4
OBJECT_TYPE = 8  # IS_OBJECT
CALL_TOP = 0x20000  # of This's type
HANDLE_EXCEPTION = 149


def head_of(offsets: Offsets, symbols: Symbols) -> int:
    """Address of EG(current_execute_data), where the walk begins."""
    return symbols.globals + offsets.current_execute_data & 0xFFFFFFFFFFFFFFFF


def kernel_row(offsets: Offsets, version: int, symbols: Symbols) -> np.ndarray:
    """The PHP_LAYOUT row (shape (1,)) of a version, PHP_VERSION_ID, with these addresses in whatever process."""
    row = np.zeros(1, PHP_LAYOUT)
    head = head_of(offsets, symbols)
    row["generator_class"] = symbols.generator - head if symbols.generator else 0
    row["frameless_functions"] = symbols.frameless - head if symbols.frameless else 0
    row["version"] = version
    for name in ("op_array_opcodes", "op_array_file", "generator_frame", "generator_parent"):
        row[name] = getattr(offsets, name)
    row["frameless"] = offsets.frameless if symbols.frameless else ABSENT
    known = offsets.before_exception != ABSENT
    row["before_exception"] = offsets.before_exception - offsets.current_execute_data if known else ABSENT
    return row
