# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm.probing FILE: probes on functions of this kernel, in a guest: known calls, counted by each mechanism; and
what is refused. Writes what it found as JSON, for the tests to judge.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard import probing
from kernelspan_agent.probes import bpf, functions, proofs
from kernelspan_agent.probes.functions import Placement
from kernelspan_agent.probes.kfunctions import KernelFunctions
from kernelspan_api.userprobes import Mechanism
from tests.support.observing import argument, observer, register

CALLED = "ksys_fadvise64_64"  # (int fd, loff_t offset, loff_t len, int advice): nothing calls it but fadvise(2)
OFFSETS = tuple(101 * number for number in range(1, 14))  # 13 calls
MODULE_CALLED = "ovl_mkdir"  # of module overlay: what the guest's root is
FOLDERS = 5
BLOCKED = "do_nanosleep"
SLEEPERS = 101
SHARED, ENTRY_CODE = "state_show", "exc_int3"
_CAPABILITIES = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
_LEAST = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", _CAPABILITIES, "--inh-caps", _CAPABILITIES]
_LEAST += ["--ambient-caps", _CAPABILITIES, sys.executable, "-c"]
_LEAST += [
    "import json; from kernelspan_agent.guard import probing; print(json.dumps([c.as_json() for c in probing.checks()]))"
]
MECHANISMS = (Mechanism.FENTRY, Mechanism.KPROBE_MULTI, Mechanism.KPROBE)


def survey() -> dict[str, Any]:
    """All of it, as JSON."""
    found = KernelFunctions().find([CALLED, MODULE_CALLED, BLOCKED, SHARED, ENTRY_CODE])
    return {
        "checks": {check.name: check.as_json() for check in probing.checks()},
        "least": {level: _least(level) for level in ("3", "2")},
        "automatic": {name: _told(name, Mechanism.AUTO, found) for name in found},
        "forced": {
            each.value: {name: _told(name, each, found) for name in (SHARED, ENTRY_CODE)} for each in MECHANISMS
        },
        "called": {each.value: _called(functions.place(found[CALLED], each, returns=True)) for each in _there()},
        "module": _module(functions.place(found[MODULE_CALLED], returns=True)),
        "blocked": {each.value: _blocked(functions.place(found[BLOCKED], each, returns=True)) for each in _there()},
        "again": {each.value: _again(functions.place(found[CALLED], each)) for each in _there()},
    }


def _least(paranoid: str) -> dict[str, list[str]]:
    """The checks with four capabilities, at a level of kernel.perf_event_paranoid; Debian's kernels begin at 3."""
    Path("/proc/sys/kernel/perf_event_paranoid").write_text(paranoid)
    ran = subprocess.run(_LEAST, check=True, capture_output=True, text=True)
    return {each["name"]: [each["state"], each["reason"], each["hint"]] for each in json.loads(ran.stdout)}


def _there() -> list[Mechanism]:
    return [each for each in MECHANISMS if proofs.prove(each).works]


def _told(name: str, mechanism: Mechanism, found: dict[str, Any]) -> list[str]:
    """The mechanism that took it; or the reason and the message of the refusal."""
    try:
        placement = functions.place(found[name], mechanism, returns=True)
    except MachineError as error:
        return [error.reason, str(error)]
    placement.close()
    return [placement.mechanism.value]


def _called(placement: Placement) -> dict[str, Any]:
    """Arguments and results of known calls."""
    traced = placement.mechanism is Mechanism.FENTRY
    at = (argument(1), argument(4)) if traced else (register("si"), register("ax"))
    with contextlib.ExitStack() as stack:
        seen = [stack.enter_context(observer()) for _ in at]
        for each, where, returns in zip(seen, at, (False, True), strict=True):
            target = placement.target(returns=returns)
            program = stack.enter_context(each.loaded(placement.kind, where, target, bits=32 if returns else 64))
            for attachment in placement.attach(program, returns=returns):
                stack.callback(attachment.close)
        reader, writer = os.pipe()
        results = []
        for offset in OFFSETS:
            try:
                os.posix_fadvise(reader, offset, 1, os.POSIX_FADV_NORMAL)
                results.append(0)
            except OSError as error:
                results.append(-(error.errno or 0))
        os.close(reader)
        os.close(writer)
        entered, left = (each.seen() for each in seen)
    return {
        "entered": [entered.runs, entered.total],
        "left": [left.runs, left.total],
        "results": results,
    }


def _module(placement: Placement) -> dict[str, Any]:
    with proofs.counting() as counter, counter.loaded(placement.kind, placement.target()) as program:
        attachments = placement.attach(program)
        for number in range(FOLDERS):
            os.mkdir(f"/probing-{number}")  # noqa: PTH102 - one call
        for attachment in attachments:
            attachment.close()
        placement.close()
        return {"mechanism": placement.mechanism.value, "counted": counter.value()}


def _blocked(placement: Placement) -> dict[str, Any]:
    """Many threads in one function at once: how many returns are seen, and what the kernel says it left out.

    `skipped`: runs of the entry's and of the return's program left out as one was under way on that CPU (7.2 preempts them).
    """
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(proofs.counting()) for _ in range(2)]
        attachments, programs = [], []
        for counter, returns in zip(counters, (False, True), strict=True):
            program = stack.enter_context(counter.loaded(placement.kind, placement.target(returns=returns)))
            attachments += placement.attach(program, returns=returns)
            programs.append(program)
        threads = [threading.Thread(target=time.sleep, args=(1.0,)) for _ in range(SLEEPERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        missed = [attachment.missed() for attachment in attachments]
        for attachment in attachments:
            attachment.close()
        return {
            "entered": counters[0].value(),
            "left": counters[1].value(),
            "missed": missed,
            "skipped": [bpf.prog_missed(program) or 0 for program in programs],
        }


def _again(placement: Placement) -> bool:
    """Whether a program that was detached can be attached again."""
    with proofs.counting() as counter, counter.loaded(placement.kind, placement.target()) as program:
        for _ in range(2):
            try:
                for attachment in placement.attach(program):
                    attachment.close()
            except MachineError:
                return False
    return True


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(survey()))
