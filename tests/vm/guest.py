# SPDX-License-Identifier: Apache-2.0
"""What runs in a guest: python -m tests.vm.guest FOLDER. Leaves its results in FOLDER, for the tests to judge.

By each mechanism: what the verifier says to every program, what can be attached, and the target traced.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernelspan_agent.probes import bpf, constants
from kernelspan_agent.probes.build import build
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.mechanisms import MECHANISMS, Mechanism
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.session import RING_BYTES, Session
from kernelspan_api.plan import Wanted, wanted
from kernelspan_api.profile import load
from tests.vm.tracing import PROFILES, start


def costs(plan: Wanted, mechanism: Mechanism) -> dict[str, int | str]:
    """Instructions that the verifier follows for each program; its last words where it refuses one."""
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=False, raw=mechanism.raw)
    built = build(modules_of(plan), defines, os.environ)
    found: dict[str, int | str] = {}
    with Loader({"ks_ring": RING_BYTES}) as loader:
        for name, module in built.modules.items():
            kind = bpf.PROG_RAW_TRACEPOINT if name == "core" else mechanism.program_kind
            loader.load(Load({"maps": module["maps"], "programs": {}}, kind))
            for program, built_program in module["programs"].items():
                found[program] = _cost(kind, loader.relocated(program, built_program), program)
    return found


def _cost(kind: int, instructions: bytes, program: str) -> int | str:
    try:
        return bpf.prog_cost(kind, instructions, program)
    except OSError as refused:
        try:
            os.close(bpf.prog_load(kind, instructions, program))
        except bpf.VerifierError as error:
            return f"{error}: {error.log[-1500:]}"
        return str(refused)


def attached(plan: Wanted, mechanism: Mechanism) -> list[str]:
    """What could be attached, all groups at once."""
    with Session.open(plan, os.environ, mechanism=mechanism) as session:
        return session.attached


def kernel_messages() -> list[str]:
    """What the kernel complained of: warnings and worse."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    found = []
    try:
        while True:
            head, _, text = os.read(log, 8192).decode(errors="replace").partition(";")
            if int(head.split(",")[0]) & 7 <= 3 or text.startswith(("WARNING", "BUG", "Call Trace")):  # KERN_ERR
                found.append(text.splitlines()[0])
    except BlockingIOError:
        return found
    finally:
        os.close(log)


def main(folder: Path) -> int:
    """Everything; 0 unless our own code broke."""
    plan = wanted("everything", load(PROFILES["RawTracepoint"].read_bytes(), standalone=True).spec)
    # every walker there is, and what tells of requests
    plan = replace(plan, runtimes=EVERYTHING.runtimes, requests=EVERYTHING.requests)
    results: dict[str, Any] = {"release": platform.release(), "costs": {}, "attached": {}, "errors": []}
    before = kernel_messages()
    for mechanism in MECHANISMS:
        for key, function in (("costs", costs), ("attached", attached)):
            try:
                results[key][mechanism.name] = function(plan, mechanism)
            except Exception:  # noqa: BLE001 - the other parts are to be seen all the same
                results["errors"].append(traceback.format_exc())
        start(mechanism.name, folder)
    results["complaints"] = kernel_messages()[len(before) :]
    (folder / "results.json").write_text(json.dumps(results))
    return bool(results["errors"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
