# SPDX-License-Identifier: Apache-2.0
"""The reasons of a profile's status: what each means and what to do about it.

The list is closed: a condition or a probe that is not well has one of these, and a reason is never renamed.
"""

from __future__ import annotations

import enum
from typing import Self


class Reason(enum.Enum):
    """`value` is what the status says; `meaning` and `remedy` are one sentence each."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str) -> Self:
        """A member whose value is its name in the status."""
        reason = object.__new__(cls)
        reason._value_ = value
        reason.meaning = meaning
        reason.remedy = remedy
        return reason

    NO_MATCHING_PODS = (
        "NoMatchingPods",
        "The selector selects no pod.",
        "Compare podSelector or workloadRef with the labels of the pods (kubectl get pods --show-labels).",
    )
    NO_MATCHING_PROCESSES = (
        "NoMatchingProcesses",
        "No process of the selected pods, or of this machine, is selected.",
        "Widen containerSelector or processSelector, or start the program.",
    )
    INVALID_SPEC = (
        "InvalidSpec",
        "The profile breaks a rule.",
        "Mend the fields that the message names; `kernelspan check -f FILE` lists all of them.",
    )
    FUNCTION_NOT_FOUND = (
        "FunctionNotFound",
        "This kernel has no function of that name that can be probed.",
        "Look the name up in /proc/kallsyms of the node; it may be inlined or renamed in this kernel.",
    )
    FUNCTION_BLACKLISTED = (
        "FunctionBlacklisted",
        "The kernel forbids probes on this function.",
        "Probe a caller or a callee instead; debugfs' kprobes/blacklist lists what is forbidden.",
    )
    TRACEPOINT_NOT_FOUND = (
        "TracepointNotFound",
        "This kernel has no such tracepoint.",
        "Compare category and event with tracefs' available_events on the node.",
    )
    SYMBOL_NOT_FOUND = (
        "SymbolNotFound",
        "The file has symbols, but not this one.",
        "Compare the name with the file's symbol table; C++, Rust and Go names are mangled or qualified.",
    )
    SYMBOL_STRIPPED = (
        "SymbolStripped",
        "The file has no symbol table to look the name up in.",
        "Deploy the unstripped file or give offsets.",
    )
    BINARY_NOT_FOUND = (
        "BinaryNotFound",
        "The container has no file at this path.",
        "Give the path as the container sees it.",
    )
    USDT_NOT_FOUND = (
        "UsdtNotFound",
        "The file has no such static probe.",
        "Compare provider and probe with the file's .note.stapsdt; it may be built without them.",
    )
    ARGUMENT_UNSUPPORTED = (
        "ArgumentUnsupported",
        "The argument cannot be read as this type here.",
        "Choose another type, index or field.",
    )
    MECHANISM_UNSUPPORTED = (
        "MechanismUnsupported",
        "This kernel cannot attach by this mechanism.",
        "Leave mechanism at Auto; `kernelspan check` lists what this machine can do.",
    )
    COMPILE_FAILED = (
        "CompileFailed",
        "The probe's program did not compile.",
        "Report it with the message and the output of `kernelspan render`.",
    )
    VERIFIER_REJECTED = (
        "VerifierRejected",
        "The kernel's verifier refused the probe's program.",
        "Report it with the message and the kernel's version; fewer arguments or conditions may pass.",
    )
    PERMISSION_DENIED = (
        "PermissionDenied",
        "The agent lacks a capability.",
        "Grant the capability that the message names.",
    )
    LOCKDOWN_ACTIVE = (
        "LockdownActive",
        "Kernel lockdown forbids reading kernel memory from probes.",
        "Boot the node with lockdown=none or integrity, if its owner agrees.",
    )
    KERNEL_TOO_OLD = (
        "KernelTooOld",
        "This kernel lacks what the profile needs.",
        "Run a kernel of at least the version in the message, or leave that part out.",
    )
    TOO_MANY_PROBES = (
        "TooManyProbes",
        "The node's profiles want more probes than the agent allows.",
        "Let profiles share equal probes, have fewer of them, or select fewer of the node's pods.",
    )
    RUNTIME_UNSUPPORTED = (
        "RuntimeUnsupported",
        "Stacks of this runtime or of this version of it cannot be read.",
        "Operations are traced without frames; the message names the versions that can be read.",
    )
    RUNTIME_LAYOUT_UNKNOWN = (
        "RuntimeLayoutUnknown",
        "The interpreter is of a known version but its memory is not laid out as known.",
        "Report the interpreter's build; operations are traced without frames.",
    )
    RUNTIME_PENDING = (
        "RuntimePending",
        "The runtime of a new executable is still being found out.",
        "Wait: it takes milliseconds; operations until then have no frames and are counted.",
    )
    FORBIDDEN_BY_POLICY = (
        "ForbiddenByPolicy",
        "The administrator's policy does not allow this part of the profile.",
        "Leave it out, or ask for the entry under `policy` in the chart's values.",
    )
    SECRET_NOT_ALLOWED = (
        "SecretNotAllowed",
        "The Secret does not exist in the namespace or is not released for exporters.",
        'Its owner labels it kernelspan.io/exporter: "true".',
    )
    URETPROBE_UNSAFE = (
        "UretprobeUnsafe",
        "A probe on the return of this function could break the process (Go, or seccomp).",
        "Use mode Event, or probe another function.",
    )
    SOFTIRQ_CONTEXT = (
        "SoftirqContext",
        "The function runs in interrupts, where the current thread is not the one concerned.",
        "Probe a function that runs in the thread's own system call.",
    )
    BUDGET_EXCEEDED = (
        "BudgetExceeded",
        "The profile costs more than its limits allow and is throttled or detached.",
        "Narrow it (paths, ports, minDurationMicroseconds), lower sampling.percent, or raise limits.",
    )
    COLLECTOR_UNREACHABLE = (
        "CollectorUnreachable",
        "Spans cannot be delivered.",
        "Check endpoint, TLS, network policies and the collector's log.",
    )
    AGENT_OUTDATED = (
        "AgentOutdated",
        "The node's agent is older than the profile needs.",
        "Let the DaemonSet finish its roll-out.",
    )
    AGENT_UNREACHABLE = (
        "AgentUnreachable",
        "The operator has not heard from the node's agent.",
        "Look at the agent's pod on that node; it goes on tracing with its last plan.",
    )
    EXPIRED = ("Expired", "ttlSeconds has passed; nothing is traced.", "Apply the profile anew or raise ttlSeconds.")
    PAUSED = ("Paused", "spec.paused is true; nothing is traced.", "Set spec.paused to false.")
