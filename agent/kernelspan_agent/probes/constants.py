# SPDX-License-Identifier: Apache-2.0
"""Every constant the C text is compiled with, in one place: numbers of ours as defines, offsets of the kernel as paths.

Offsets name members of kernel structs; the compiling child looks them up in the running kernel's BTF. A list of paths
gives the names a member has had, newest first.
"""

from __future__ import annotations

import enum

from kernelspan_agent.model import WireProtocol
from kernelspan_agent.ring import records
from kernelspan_agent.runtimes import registry
from kernelspan_api.operations import OPERATIONS, Group

MAX_CLASSES = records.MAX_CLASSES
MAX_PORTS = 16
OWN_WORDS = records.MAX_OWN_PROBES // 64  # of the mask of own probes in a class
MAX_LAYOUTS = 64
LAYOUT_BYTES = 256  # of a runtime's layout at most
RING_TOKEN = 0x4B530001  # stands for the ring buffer where bcc has no call for it
CALL_OP_AT, CALL_CLASS_AT = 84, 88  # offsets in struct ks_call
CLASS_PROTOCOLS_AT = 8  # in a class's flags: bits of WireProtocol
PLACES = 32768  # where threads' calls are kept: see place.h; a power of two
TOLD = 4096  # ids that are known to be known without a look into a hash, by their last bits; a power of two
MOST_SINGLE_CALLS = 8  # that are armed one by one
MOST_WAKE_BYTES = 1 << 20  # in the ring when its reader is woken, however large it is
MOST_FUNCTIONS = MOST_SINGLE_CALLS + 1  # and restart_syscall
REQUESTS_PLACE = 0  # of ks_requests in the array of walkers, whose places begin at 1
CAST_TOKEN = 0x4B530002  # stands for the kernel's function in a call of it: see direct.py


class Counter(enum.IntEnum):
    """Index into a match class's counters in ks_counts. seen = sent + filtered + rate limited + drops + in flight."""

    SEEN = 0
    SENT = 1
    FILTERED = 2
    RATE_LIMITED = 3
    RING_FULL = 4
    INFLIGHT_FULL = 5
    TARGET_GONE = 6  # the thread ended inside the call
    REPLACED = 7  # a call whose return was never seen
    UNSEEN = 8  # counted as seen, but no operation of this profile after all
    STACKS_SENT = 9
    STACK_LOST = 10
    PATH_LOST = 11
    PATH_UNREADABLE = 12
    PROCESS_LOST = 13
    CODES_SENT = 14
    THROTTLED = 15  # operations of the built-in groups that the guard has thrown away
    ARGUMENTS_LOST = 16  # the ring was full when they were to be sent
    NOT_TASK = 17  # hits of own probes in an interrupt: nobody's
    OWN_SEEN = 18  # of SEEN, calls of own probes that the guard has not thrown away
    OWN_THROTTLED = 19  # those that it has
    BYTES_LOST = 20  # the ring was full when a request's or response's were to be sent


COUNTERS = 21

EVERY_HIT = 0xFFFFFFFF


def of_hits(share: float) -> int:
    """A share as the programs compare it with a random number: of 2^32 hits, so many; all ones is every one."""
    return min(max(round(share * (EVERY_HIT + 1)), 0), EVERY_HIT)


OFFSETS: dict[str, list[str]] = {
    "KS_TASK_FILES": ["task_struct.files"],
    "KS_TASK_FS": ["task_struct.fs"],
    "KS_TASK_TGID": ["task_struct.tgid"],
    "KS_TASK_PID": ["task_struct.pid"],
    "KS_TASK_LEADER": ["task_struct.group_leader"],
    "KS_TASK_THREAD_PID": ["task_struct.thread_pid"],
    "KS_PID_NUMBERS": ["pid.numbers"],
    "KS_PID_OWN_LEVEL": ["pid.level"],
    "KS_UPID_SIZE": ["sizeof upid"],
    "KS_UPID_NR": ["upid.nr"],
    "KS_UPID_NS": ["upid.ns"],
    "KS_PIDNS_INUM": ["pid_namespace.ns.inum"],
    "KS_TASK_FLAGS": ["task_struct.flags"],
    "KS_TASK_SWITCHES": ["task_struct.nvcsw"],
    "KS_TASK_PREEMPTIONS": ["task_struct.nivcsw"],
    "KS_TASK_STATUS": ["task_struct.thread_info.status"],
    "KS_TASK_SIGNAL": ["task_struct.signal"],
    "KS_TASK_STACK": ["task_struct.stack"],
    "KS_TASK_EXIT_CODE": ["task_struct.exit_code"],
    "KS_TASK_FSBASE": ["task_struct.thread.fsbase"],
    "KS_SIGNAL_LIVE": ["signal_struct.live"],
    "KS_SIGNAL_FLAGS": ["signal_struct.flags"],
    "KS_SIGNAL_EXIT_CODE": ["signal_struct.group_exit_code"],
    "KS_FILES_FDT": ["files_struct.fdt"],
    "KS_FDT_FD": ["fdtable.fd"],
    "KS_FDT_MAX_FDS": ["fdtable.max_fds"],
    "KS_FILE_PATH": ["file.f_path"],
    "KS_FILE_INODE": ["file.f_inode"],
    "KS_FILE_PRIVATE": ["file.private_data"],
    "KS_TASK_MM": ["task_struct.mm"],
    "KS_MM_PGD": ["mm_struct.pgd"],
    "KS_MM_EXE_FILE": ["mm_struct.exe_file"],
    "KS_MM_START_CODE": ["mm_struct.start_code"],
    "KS_MM_END_CODE": ["mm_struct.end_code"],
    "KS_MM_END_DATA": ["mm_struct.end_data"],
    "KS_INODE_MODE": ["inode.i_mode"],
    "KS_INODE_INO": ["inode.i_ino"],
    "KS_INODE_SIZE": ["inode.i_size"],
    "KS_INODE_MTIME": ["inode.i_mtime_sec", "inode.__i_mtime.tv_sec", "inode.i_mtime.tv_sec"],
    "KS_INODE_SB": ["inode.i_sb"],
    "KS_SB_DEV": ["super_block.s_dev"],
    "KS_DENTRY_PARENT": ["dentry.d_parent"],
    "KS_DENTRY_NAME": ["dentry.d_name"],
    "KS_DENTRY_INODE": ["dentry.d_inode"],
    "KS_DENTRY_HASH": ["dentry.d_hash"],
    "KS_VFSMOUNT_ROOT": ["vfsmount.mnt_root"],
    "KS_MOUNT_MNT": ["mount.mnt"],
    "KS_MOUNT_PARENT": ["mount.mnt_parent"],
    "KS_MOUNT_MOUNTPOINT": ["mount.mnt_mountpoint"],
    "KS_FS_ROOT": ["fs_struct.root"],
    "KS_FS_PWD": ["fs_struct.pwd"],
    "KS_SOCKET_SK": ["socket.sk"],
    "KS_SOCK_FAMILY": ["sock.__sk_common.skc_family"],
    "KS_SOCK_NUM": ["sock.__sk_common.skc_num"],
    "KS_SOCK_DPORT": ["sock.__sk_common.skc_dport"],
    "KS_SOCK_DADDR": ["sock.__sk_common.skc_daddr"],
    "KS_SOCK_RCV_SADDR": ["sock.__sk_common.skc_rcv_saddr"],
    "KS_SOCK_V6_DADDR": ["sock.__sk_common.skc_v6_daddr"],
    "KS_SOCK_V6_RCV_SADDR": ["sock.__sk_common.skc_v6_rcv_saddr"],
    "KS_SOCK_PROTOCOL": ["sock.sk_protocol"],
    "KS_SOCK_SHUTDOWN": ["sock.sk_shutdown"],
    "KS_TCP_RECEIVED": ["tcp_sock.bytes_received"],
    "KS_TCP_RCV_NXT": ["tcp_sock.rcv_nxt"],
    "KS_TCP_COPIED": ["tcp_sock.copied_seq"],
    "KS_TCP_ACKED": ["tcp_sock.bytes_acked"],
    "KS_TCP_SND_UNA": ["tcp_sock.snd_una"],
    "KS_TCP_WRITTEN": ["tcp_sock.write_seq"],
    "KS_UNIX_ADDR": ["unix_sock.addr"],
    "KS_UNIX_PEER": ["unix_sock.peer"],
    "KS_UNIX_ADDRESS_LEN": ["unix_address.len"],
    "KS_UNIX_ADDRESS_NAME": ["unix_address.name"],
    "KS_REGS_R8": ["pt_regs.r8"],
    "KS_REGS_R9": ["pt_regs.r9"],
    "KS_REGS_R10": ["pt_regs.r10"],
    "KS_REGS_ORIG_AX": ["pt_regs.orig_ax"],
    "KS_REGS_CS": ["pt_regs.cs"],
    "KS_REGS_SIZE": ["sizeof pt_regs"],
}

# Of what only some of the user's own probes look at; asked for where a text names it.
OWN_OFFSETS: dict[str, list[str]] = {
    "KS_CRED_UID": ["cred.uid"],
    "KS_CRED_GID": ["cred.gid"],
    "KS_CRED_EUID": ["cred.euid"],
    "KS_CRED_EGID": ["cred.egid"],
    "KS_CRED_EFFECTIVE": ["cred.cap_effective"],
    "KS_CRED_PERMITTED": ["cred.cap_permitted"],
    "KS_CRED_INHERITABLE": ["cred.cap_inheritable"],
    "KS_TASK_CRED": ["task_struct.cred"],
    "KS_TASK_NSPROXY": ["task_struct.nsproxy"],
    "KS_NS_CGROUP": ["nsproxy.cgroup_ns"],
    "KS_NS_IPC": ["nsproxy.ipc_ns"],
    "KS_NS_MNT": ["nsproxy.mnt_ns"],
    "KS_NS_NET": ["nsproxy.net_ns"],
    "KS_NS_TIME": ["nsproxy.time_ns"],
    "KS_NS_UTS": ["nsproxy.uts_ns"],
    "KS_CRED_USER": ["cred.user_ns"],
    "KS_INUM_CGROUP": ["cgroup_namespace.ns.inum"],
    "KS_INUM_IPC": ["ipc_namespace.ns.inum"],
    "KS_INUM_MNT": ["mnt_namespace.ns.inum"],
    "KS_INUM_NET": ["net.ns.inum"],
    "KS_INUM_TIME": ["time_namespace.ns.inum"],
    "KS_INUM_UTS": ["uts_namespace.ns.inum"],
    "KS_INUM_USER": ["user_namespace.ns.inum"],
    "KS_DENTRY_SB": ["dentry.d_sb"],
    "KS_DENTRY_FLAGS": ["dentry.d_flags"],
    # A macro at first, of bit 16 or 15 by version (include/linux/dcache.h): both, so that too few are taken for certain.
    "KS_DENTRY_MOUNTED": ["enum dentry_flags.DCACHE_MOUNTED", "98304"],
    "KS_VFSMOUNT_SB": ["vfsmount.mnt_sb"],
    **{
        f"KS_REGS_{name.upper()}": [f"pt_regs.{name}"]
        for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")
    },
    **{f"KS_REGS_R{number}": [f"pt_regs.r{number}"] for number in range(11, 16)},
}


def defines(
    *, ring_bytes: int, watch_exec: bool, raw: bool, fentry: bool = False, executables: bool = False
) -> dict[str, int]:
    """Name to value of every constant of ours.

    `raw`, `fentry`: by which mechanism calls are seen; neither: tracepoints. `executables`: an exec tells the path of its file;
    with `watch_exec` always, as who asks for it may come later.
    """
    found = {
        "KS_VERSION": records.VERSION,
        "KS_SLOT": records.SLOT,
        "KS_OP_SIZE": records.OP_SIZE,
        "KS_RING_HEADER": records.RING_HEADER,
        "KS_MAX_DEPTH": records.MAX_DEPTH,
        "KS_MAX_PATH": records.MAX_PATH_BYTES,
        "KS_MAX_COMPONENTS": records.MAX_COMPONENTS,
        "KS_MAX_CLASSES": MAX_CLASSES,
        "KS_MAX_PORTS": MAX_PORTS,
        "KS_MAX_LAYOUTS": MAX_LAYOUTS,
        "KS_MAX_IMAGES": 1024,
        "KS_LAYOUT_BYTES": LAYOUT_BYTES,
        "KS_RUNTIME_WORDS": registry.WORDS,
        "KS_MAX_WALKERS": registry.MAX_WALKERS,  # programs of all runtimes' walkers
        "KS_MAX_PROCS": 16384,
        "KS_MAX_CALLS": 16384,  # operations at once that wait for their end by another way than their call's return
        "KS_MAX_ASIDE": 1024,  # threads in the handler of a signal that stopped a call
        "KS_MAX_THREADS": 65536,  # that have made a wanted call and live: 14 MB of the kernel's
        "KS_PLACES": PLACES,
        "KS_MAX_STACKS": 16384,
        "KS_MAX_PATHS": 16384,
        "KS_TOLD": TOLD,
        "KS_MAX_CODES": 16384,
        "KS_OWN_WORDS": OWN_WORDS,
        "KS_OWN_OPERATION": records.OWN_OPERATION,
        "KS_COUNTERS": COUNTERS,
        "KS_GROUPS": 4,
        "KS_RING_PAGES": 8,  # of the map bcc makes while compiling; the real one is made by the loader
        "KS_RING_TOKEN": RING_TOKEN,
        "KS_CAST_TOKEN": CAST_TOKEN,
        "KS_CALL_OP_AT": CALL_OP_AT,
        "KS_CALL_CLASS_AT": CALL_CLASS_AT,
        "KS_WAKE_BYTES": min(ring_bytes // 4, MOST_WAKE_BYTES),
        "KS_WAKE_SPAN": 4096,  # of the fill level; records that come at once from several CPUs do not step over it
        "KS_WATCH_EXEC": int(watch_exec),
        "KS_EXECUTABLES": int(watch_exec or executables),
        "KS_RAW": int(raw),
        "KS_FENTRY": int(fentry),
        "KS_MOST_FUNCTIONS": MOST_FUNCTIONS,
        "KS_CLASS_PATHS": 1,
        "KS_CLASS_REQUESTS": 2,
        "KS_CLASS_PROTOCOLS_AT": CLASS_PROTOCOLS_AT,
        "KS_REQUESTS_PLACE": REQUESTS_PLACE,
        "KS_MAX_CONNECTIONS": 16384,
        "KS_MAX_HTTP2": 8192,  # directions
        "KS_MAX_LOST": 4096,  # places of threads, and as many of processes: 64 KiB; a power of two
        "KS_SWITCH_NEXT_PID": 56,  # sched_switch: offset of next_pid; see tracefs
        "KS_FRAMES_NONE": records.FrameState.NONE,
        "KS_FRAMES_COMPLETE": records.FrameState.COMPLETE,
        "KS_FRAMES_DEPTH": records.FrameState.TRUNCATED_DEPTH,
        "KS_FRAMES_READ": records.FrameState.TRUNCATED_READ,
        "KS_FRAMES_PENDING": records.FrameState.RUNTIME_PENDING,
        "KS_FRAMES_NO_THREAD_STATE": records.FrameState.NO_THREAD_STATE,
        "KS_FRAMES_SCAN_LIMIT": records.FrameState.SCAN_LIMIT,
        "KS_FRAMES_READ_FAILED": records.FrameState.READ_FAILED,
        "KS_FRAMES_STACK_LOST": records.FrameState.STACK_LOST,
        "KS_FRAMES_AMBIGUOUS": records.FrameState.AMBIGUOUS,
        "KS_FRAMES_NO_TRUE_WALK": records.FrameState.NO_TRUE_WALK,
        "KS_FRAMES_ELSEWHERE": records.FrameState.TRUNCATED_ELSEWHERE,
        "KS_FRAMES_NO_RULE": records.FrameState.TRUNCATED_NO_RULE,
        "KS_FRAMES_UNMAPPED": records.FrameState.TRUNCATED_UNMAPPED,
    }
    for prefix, members in (
        ("KS_KIND", records.RecordKind),
        ("KS_PROTOCOL", WireProtocol),
        ("KS_PROCESS", records.ProcessEvent),
        ("KS_CONTEXT", records.ContextKind),
        ("KS_PATH", records.PathFlag),
        ("KS_OP", records.OperationFlag),
        ("KS_ARGUMENT", records.ArgumentState),
        ("KS_BYTES", records.BytesFlag),
        ("KS_C", Counter),
    ):
        found.update({f"{prefix}_{member.name}": int(member) for member in members})
    found.update({f"KS_OP_{operation.name}": operation.number for operation in OPERATIONS})
    found.update({f"KS_GROUP_{group.name}": index for index, group in enumerate(Group)})
    return found
