# SPDX-License-Identifier: Apache-2.0
"""Layout of what the kernel programs put into the ring buffer, described once.

`c_assertions` turns the dtypes into `_Static_assert`s that are compiled with every program, so a C struct that no
longer agrees refuses to compile and names the field.

Every record fills a whole number of slots of SLOT bytes (the kernel's 8-byte header included), so that a drained
stretch of the ring is one array: see `reader`.
"""

from __future__ import annotations

import enum
from struct import Struct

import numpy as np

VERSION = 1
RING_HEADER = 8  # struct bpf_ringbuf_hdr: length (bits 31 busy, 30 discard), page offset
SLOT = 160
OP_SIZE = SLOT - RING_HEADER
FRAME_SIZE = 32
MAX_CLASSES = 256  # sets of profiles that want a process, at once
MAX_DEPTH = 127  # Python frames a stack; the profile's maxDepth is at most this
MAX_PATH_BYTES = 4096
MAX_COMPONENTS = 48
OWN_OPERATION = 64  # OPERATION["op"] of the user's own probe number 0; below it are the built-in operations
MAX_OWN_PROBES = 256  # of all profiles of a node, at once


class RecordKind(enum.IntEnum):
    """First word of a record. Numbers are never used again."""

    OPERATION = 1
    STACK = 2
    PATH = 3
    PROCESS = 4
    CODE = 5  # what names a code object: see CODE_HEADER
    BYTES = 7  # the first bytes of what a call sent or received
    ARGUMENTS = 6  # what one of the user's own probes read: its generated program's own layout


class ProcessEvent(enum.IntEnum):
    """PROCESS["event"]."""

    FORK = 1
    EXEC = 2
    EXIT = 3


class FrameState(enum.IntEnum):
    """OPERATION["frame_state"] and STACK["state"]: how the walk in the kernel ended."""

    NONE = 0  # not asked for, or the thread has no frame of its runtime
    COMPLETE = 1
    TRUNCATED_DEPTH = 2  # more frames than maxDepth
    TRUNCATED_READ = 3  # a frame was not resident
    RUNTIME_PENDING = 4
    NO_THREAD_STATE = 5  # the runtime does not know this thread
    SCAN_LIMIT = 6  # more threads than the search looks at
    READ_FAILED = 7  # the runtime's own structures could not be read
    STACK_LOST = 8  # the ring was full when the stack was to be sent
    AMBIGUOUS = 9  # several sub-interpreters claim the thread
    NO_TRUE_WALK = 10  # the runtime's own record of its frames does not hold outside a system call
    TRUNCATED_ELSEWHERE = 11  # the outermost frames are not on the thread's stack
    TRUNCATED_NO_RULE = 12  # a frame's code does not say where its caller's is
    TRUNCATED_UNMAPPED = 13  # or belongs to no file that is known


class BytesFlag(enum.IntFlag):
    """BYTES_HEADER["flags"]."""

    SENDS = 1
    FIRST = 2  # nothing was sent or received on the connection before
    PLACED = 4  # `position` is known
    FRAMES = 8  # of HTTP/2, without the bodies in them
    AT_FRAME = 16  # and the call begins with one
    DATAGRAM = 32
    MANY = 64  # what follows are several: of each its length, how much of it was copied, and that


class ArgumentState(enum.IntEnum):
    """ARGUMENT["state"]."""

    WHOLE = 0
    CUT = 1  # longer than was asked for
    UNREADABLE = 2  # not resident, or no address at all


class ContextKind(enum.IntEnum):
    """OPERATION["context_kind"]: what OPERATION["context"] identifies inside the thread."""

    THREAD = 0  # of Ruby: its execution context, since a thread of the kernel may carry several of Ruby's in turn
    # of Node.js, the generation is when the thread's last receive began: trace/callbacks.py
    TASK = 1  # address of the outermost coroutine's frame, with a generation: even for the task's, odd for a step of it
    GREENLET = 2  # address of the outermost frame of a process that uses greenlets, with a generation
    FIBER = 3  # address of the frame that a PHP Fiber's stack begins with, or of a Ruby Fiber; it has no generation
    GOROUTINE = 4  # address of Go's runtime.g; its number is the generation


class PathFlag(enum.IntFlag):
    """PATH["flags"]."""

    RAW = 1  # bytes as the program passed them, not names of directory entries
    UNREACHABLE = 2  # the walk did not end at the process's root
    TRUNCATED = 4  # longer than MAX_PATH_BYTES or MAX_COMPONENTS
    DELETED = 8


class OperationFlag(enum.IntFlag):
    """OPERATION["flags"]."""

    INTERRUPTED = 1  # a signal ended the call, and the thread went on with something else
    NO_ARGUMENT = 2  # `arg` says nothing
    NO_RESULT = 4  # `ret` is not what the operation's result attribute means
    INSTANT = 8  # no end of its own: mode Event


HEADER_FIELDS = [
    ("kind", "<u2"),
    ("version", "<u2"),
    ("size", "<u4"),
    ("time", "<u8"),  # CLOCK_MONOTONIC, ns: the end of an operation
    ("tgid", "<u4"),
    ("tid", "<u4"),
]

HEADER = np.dtype(HEADER_FIELDS)

OPERATION = np.dtype(
    [
        *HEADER_FIELDS,
        ("start", "<u8"),  # CLOCK_MONOTONIC, ns
        ("stack", "<u8"),  # id of a STACK record; 0: none
        ("context", "<u8"),  # see ContextKind
        ("generation", "<u8"),  # tells apart contexts that had the same address one after another; 0: none known
        ("file", "<u8"),  # id of a PATH record: the file, or the directory that `path` is relative to
        ("path", "<u8"),  # id of a RAW PATH record: the path as passed; 0: none
        ("path2", "<u8"),  # the second path of rename
        ("ret", "<i8"),
        ("arg", "<u8"),  # bytes asked for, signal, flags: by operation
        ("op", "<u2"),  # kernelspan_api.operations
        ("cls", "<u2"),  # match class
        ("fd", "<i4"),
        ("frame_state", "u1"),
        ("context_kind", "u1"),
        ("flags", "<u2"),
        ("family", "<u2"),  # AF_*; 0: no socket
        ("local_port", "<u2"),
        ("peer_port", "<u2"),
        ("protocol", "<u2"),  # IPPROTO_*
        # How many sends, receives and closes of the thread (of a task or goroutine: of the process) the kernel has not told so
        # far, whatever the reason: between two operations of one context that have the same number none was.
        ("lost", "<u4"),
        # IPv4 in the first four bytes; for rename: the second directory's id; of own probes: the conditions that hold
        ("local_address", "u1", (16,)),
        ("peer_address", "u1", (16,)),
    ]
)

FRAME = np.dtype(
    [
        ("code", "<u8"),  # address of the code object
        ("pc", "<u8"),  # last instruction, as the runtime keeps it
        ("globals", "<u8"),  # address of the frame's globals; above 48 bits a part of its tag
        ("check", "<u4"),  # identity words of the code object, hashed: a reused address has others
        ("owner", "u1"),
        ("runtime", "u1"),
        ("tag", "<u2"),  # of what globals hold: a reused address has another
    ]
)

STACK_HEADER = np.dtype(
    [
        *HEADER_FIELDS,
        ("stack", "<u8"),
        ("count", "<u2"),  # frames that follow
        ("state", "u1"),
        ("runtime", "u1"),
        ("layout", "<u4"),  # number of the runtime's layout: Session.layout_id
    ]
)

CODE_HEADER = np.dtype([*HEADER_FIELDS, ("layout", "<u4")])  # what follows is the runtime's own

PATH_HEADER = np.dtype(
    [
        *HEADER_FIELDS,
        ("file", "<u8"),
        ("length", "<u2"),  # bytes that follow: names from the leaf to the root, each ended by NUL; or the raw path
        ("count", "<u2"),  # names
        ("flags", "<u2"),
        ("reserved", "<u2"),
    ]
)

BYTES_HEADER = np.dtype(
    [
        *HEADER_FIELDS,  # of the operation: thread and end
        ("connection", "<u8"),  # which socket: another one at the same address has another
        ("moved", "<u4"),  # bytes sent or received in all
        ("length", "<u2"),  # of those that follow, the first
        ("tail", "<u2"),  # of those that follow them, the last; there may be others between
        ("flags", "<u2"),  # BytesFlag
        ("protocol", "<u2"),  # WireProtocol
        ("position", "<u4"),  # on the connection, in this direction, of the last byte
        ("other", "<u4"),  # in the other direction, of the last that was moved so far
        ("untimed", "<u4"),  # the thread's switches that `away` lacks: see ThreadTime
        ("away", "<u8"),
    ]
)

BYTES = Struct("<HHIQIIQIHHHHIIIQ")  # the same for one record at a time, in which numpy is twenty times as slow

ARGUMENTS_HEADER = np.dtype(
    [
        *HEADER_FIELDS,
        ("id", "<u8"),  # OPERATION["arg"] of the operation whose arguments these are
        ("probe", "<u2"),  # number of the user's own probe
        ("count", "<u2"),  # ARGUMENT rows that follow, then their data
        ("reserved", "<u4"),
    ]
)

ARGUMENT = np.dtype(
    [
        ("value", "<u8"),  # the number itself, or the id of a PATH record
        ("length", "<u4"),  # bytes of data
        ("state", "u1"),  # ArgumentState
        ("pad", "u1", (3,)),
    ]
)

PROCESS = np.dtype(
    {
        "names": [name for name, _ in HEADER_FIELDS]
        + ["event", "parent", "exit_code", "start", "comm"]
        + ["root", "cwd"]  # which directories the process that forks or execs has: equal for the same one
        + ["executable"],  # of an exec: a PATH record's id; 0: not told
        "formats": [fmt for _, fmt in HEADER_FIELDS] + ["<u4", "<u4", "<i4", "<u8", "S16", "<u8", "<u8", "<u8"],
        "offsets": [0, 2, 4, 8, 16, 20, 24, 28, 32, 40, 48, 64, 72, 80],
        "itemsize": OP_SIZE,
    }
)

assert OPERATION.itemsize == OP_SIZE

C_STRUCTS = {
    "ks_op": OPERATION,
    "ks_frame": FRAME,
    "ks_stack_rec": STACK_HEADER,
    "ks_path_rec": PATH_HEADER,
    "ks_proc_rec": PROCESS,
    "ks_bytes_rec": BYTES_HEADER,
    "ks_own_rec": ARGUMENTS_HEADER,
    "ks_own_arg": ARGUMENT,
}


def c_assertions() -> str:
    """C text: one _Static_assert for the size of each struct and the offset and size of each field."""
    lines = []
    for struct, dtype in C_STRUCTS.items():
        if struct not in ("ks_stack_rec", "ks_path_rec", "ks_bytes_rec"):  # those end in a flexible array
            lines.append(f'_Static_assert(sizeof(struct {struct}) == {dtype.itemsize}, "{struct} size");')
        for name, (field, offset, *_) in (dtype.fields or {}).items():
            lines.append(f'_Static_assert(__builtin_offsetof(struct {struct}, {name}) == {offset}, "{struct}.{name}");')
            lines.append(
                f'_Static_assert(sizeof(((struct {struct} *)0)->{name}) == {field.itemsize}, "{struct}.{name} size");'
            )
    return "\n".join(lines) + "\n"
