# SPDX-License-Identifier: Apache-2.0
"""Where Ruby keeps what the walk and the symboliser need, by minor version, and what the kernel's rows and records hold.

offsetof() over the headers that MJIT was compiled with (2.7, 3.1: rb_mjit_min_header-*.h of Debian's ruby-dev packages) and
over the sources (3.3: vm_core.h, method.h, internal/class.h); of 3.4 what RubyVM::RJIT::C says of itself, which for 3.3 is
the same, but for the root fiber of a thread, which stands where threads of 3.4 that have run a fiber have it. x86-64. A layout is fixed within a minor version.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABSENT = 0xFFFF

# FRAME["owner"]: the type of the iseq, or CFUNC; and what else the kernel's programs are compiled with
TOP, METHOD, BLOCK, CLASS_BODY, RESCUE, ENSURE, EVAL, MAIN, PLAIN = range(9)  # rb_iseq_constant_body.type
CFUNC, KIND = 15, 15
SINGLETON = 0x40  # the class is the own one of the class that is named: its class methods
UNREAD = 0x80  # a text was not resident: the frame's code is made of its address, see bpf/runtimes/ruby.bpf.h
CUT_NAME, CUT_CLASS, CUT_FILE = 1, 2, 4  # RUBY_CODE["flags"]: a text is longer than what was sent
MISSING = 8  # times one of these: its page was not resident; it is at its address
TEXT_BYTES = 511  # at most of a text
TLS_NONE, TLS_DYNAMIC, TLS_FIXED = 0, 1, 2  # how a thread's context is found: RUBY_LAYOUT["tls"]

RUBY_LAYOUT = np.dtype(
    [
        ("classpath_id", "<u8"),  # of __classpath__, where that is a variable of the class
        ("attached_id", "<u8"),  # of __attached__
        ("tls_offset", "<i8"),  # TLS_FIXED: of ruby_current_ec, from the thread's pointer
        ("symbols", "<i8"),  # address of rb_symbols_t minus that where the walk begins; 0: not known
        ("tls", "<u4"),
        ("tls_step", "<u4"),  # TLS_DYNAMIC: bytes of an entry of the thread's table of blocks
        ("version", "<u4"),  # major * 100 + minor
        ("singleton", "<u4"),  # flag of a class: it is the own one of some object
        ("frame_bytes", "<u2"),  # of rb_control_frame_t
        ("ec_fiber", "<u2"),  # in rb_execution_context_t
        ("ec_thread", "<u2"),
        ("thread_ec", "<u2"),  # in rb_thread_t
        ("thread_root_fiber", "<u2"),
        ("thread_id", "<u2"),
        ("vm_threads", "<u2"),  # in rb_vm_t: the list of threads
        ("lines", "<u2"),  # insns_info in rb_iseq_constant_body: entries, positions, count, succinct table
        ("line_bytes", "<u2"),  # of such an entry
        ("local_iseq", "<u2"),  # in rb_iseq_constant_body
        ("string_text", "<u2"),  # of a string that is embedded
        ("class_path", "<u2"),  # in a class, behind its flags; ABSENT: it is a variable of the class
        ("class_permanent", "<u2"),  # bit of these flags: the path will not change
        ("class_attached", "<u2"),  # in a singleton class
        ("unused", "<u4"),
    ]
)

# Record of the ring that names a function; then come the texts of label, class and file, one after the other.
RUBY_CODE = np.dtype(
    [
        ("kind", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("time", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("layout", "<u4"),
        ("flags", "<u4"),  # which text was too long and is cut, or is not here
        ("code", "<u8"),  # as FRAME["code"]
        ("name_at", "<u8"),  # the texts
        ("class_at", "<u8"),
        ("file_at", "<u8"),
        ("id", "<u8"),  # of a C function's name
        ("function", "<u8"),  # where that C function is
        ("name_bytes", "<u2"),  # of a C function: of the name that its id stands for, 0: not found
        ("class_bytes", "<u2"),  # 0: of no class that has a name
        ("file_bytes", "<u2"),
        ("owner", "<u2"),  # as FRAME["owner"]
    ]
)


@dataclass(frozen=True, slots=True)
class Offsets:
    """Those that differ between versions."""

    frame_bytes: int
    ec_thread: int  # the fiber is the word before
    thread_ec: int
    thread_root_fiber: int
    lines: int
    line_bytes: int
    parent_iseq: int  # local_iseq is the word behind
    string_text: int
    singleton: int
    class_path: int = ABSENT
    class_permanent: int = 0
    class_attached: int = ABSENT
    thread_id: int = ABSENT
    vm_threads: int = ABSENT
    attached_id: int = 0


@dataclass(frozen=True, slots=True)
class ThreadOffsets:
    """By which the threads of a process are found from outside, since 3.0 below their Ractors."""

    ractor_node: int  # in rb_ractor_t: its place in the list of the VM
    ractor_threads: int
    thread_native: int  # pointer to what is known of the native thread; ABSENT: the thread itself has it
    key: int  # pthread_self()
    tid: int


THREADS = {
    (2, 7): ThreadOffsets(ABSENT, ABSENT, ABSENT, 72, ABSENT),
    (3, 1): ThreadOffsets(568, 304, ABSENT, 80, 88),
    (3, 3): ThreadOffsets(432, 256, 40, 16, 24),
    (3, 4): ThreadOffsets(432, 256, 40, 16, 24),
}

_SINGLETON_3, _SINGLETON_34 = 1 << 12, 1 << 13  # FL_USER0, FL_USER1
BY_VERSION = {
    (2, 7): Offsets(56, 56, 32, 312, 120, 8, 168, 16, _SINGLETON_3, thread_id=72, vm_threads=312, attached_id=3073),
    (3, 1): Offsets(64, 48, 40, 328, 120, 12, 168, 16, _SINGLETON_3, attached_id=3089),
    (3, 3): Offsets(56, 48, 48, 408, 112, 12, 160, 24, _SINGLETON_3, 152, 40, 128),
    (3, 4): Offsets(56, 48, 48, 424, 112, 12, 160, 24, _SINGLETON_34, 152, 40, 128),
}
OLDEST, NEWEST = min(BY_VERSION), max(BY_VERSION)

# The same in every version.
EC_STACK, EC_STACK_WORDS, EC_FRAME = 0, 8, 16
FRAME_PC, FRAME_ISEQ, FRAME_EP = 0, 16, 32
ISEQ_BODY = 16
BODY_TYPE, BODY_CODE, BODY_PATHOBJ, BODY_LABEL = 0, 8, 64, 80
OBJECT_TYPE = 31
IMEMO_OBJECT, IMEMO_SVAR, IMEMO_METHOD = 26, 2, 6
VM_RACTORS = 8
ENVIRONMENT_LOCAL = 2
MAGIC, MAGIC_CFUNC = 0x7FFF0001, 0x55550001
BY_ISEQ, BY_CFUNC = 0, 1  # rb_method_definition_t.type
CLASS_OBJECT, MODULE_OBJECT, STRING_OBJECT, ARRAY_OBJECT = 2, 3, 5, 7
OUTSIDE = INSIDE = 1 << 13  # of a string: its text is elsewhere; of an array: its elements are in itself
STRING_LENGTH, STRING_ADDRESS = 16, 24
ARRAY_LENGTH, ARRAY_ADDRESS, ARRAY_INSIDE = 16, 32, 16


def kernel_row(
    version: tuple[int, int], offsets: Offsets, tls: int, tls_place: int, *, classpath_id: int, symbols: int
) -> np.ndarray:
    """The RUBY_LAYOUT row (shape (1,)). `tls_place`: offset for TLS_FIXED, bytes of an entry for TLS_DYNAMIC."""
    row = np.zeros(1, RUBY_LAYOUT)
    for name in RUBY_LAYOUT.names or ():
        if hasattr(offsets, name):
            row[name] = getattr(offsets, name)
    row["version"] = version[0] * 100 + version[1]
    row["ec_fiber"] = offsets.ec_thread - 8
    row["local_iseq"] = offsets.parent_iseq + 8
    row["tls"], row["classpath_id"], row["symbols"] = tls, classpath_id, symbols
    row["tls_offset" if tls == TLS_FIXED else "tls_step"] = tls_place
    return row
