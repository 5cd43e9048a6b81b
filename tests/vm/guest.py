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
from kernelspan_agent.probes.loader import Loader
from kernelspan_agent.probes.loads import Loads
from kernelspan_agent.probes.mechanisms import MECHANISMS, Mechanism, choose
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.session import Session
from kernelspan_agent.ring.size import RING_BYTES
from kernelspan_api.plan import Wanted, wanted
from kernelspan_api.profile import load
from tests.vm import dropped
from tests.vm.tracing import PROFILES, start


def costs(plan: Wanted, mechanism: Mechanism) -> dict[str, int | str]:
    """Instructions that the verifier follows for each program; its last words where it refuses one."""
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=True, **mechanism.flags)
    built = build(modules_of(plan), defines, os.environ)
    found: dict[str, int | str] = {}
    loads = Loads(mechanism, plan)
    with Loader({"ks_ring": RING_BYTES, **loads.sizes}) as loader:
        for each in loads.of(built.modules):
            loader.load(replace(each, module={**each.module, "programs": {}}))
            for program, built_program in each.module["programs"].items():
                code = loader.relocated(program, built_program, each)
                found[program + each.suffix] = _cost(each.kind, code, program, each.target)
    return found


def _cost(kind: int, instructions: bytes, program: str, target: bpf.Target) -> int | str:
    try:
        return bpf.prog_cost(kind, instructions, program, target)
    except OSError as refused:
        try:
            os.close(bpf.prog_load(kind, instructions, program, target))
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
    few = wanted("few", load(PROFILES["Fentry"].read_bytes(), standalone=True).spec)
    chosen = choose(few)
    results["chosen"] = chosen.name
    for mechanism in dict.fromkeys((*MECHANISMS, chosen)):
        for key, function in (("costs", costs), ("attached", attached)):
            try:
                results[key][mechanism.name] = function(few if mechanism.fentry else plan, mechanism)
            except Exception:  # noqa: BLE001 - the other parts are to be seen all the same
                results["errors"].append(traceback.format_exc())
        start(mechanism.name, folder)
    if chosen.fentry:
        results["unseen"] = dropped.found()
    results["complaints"] = kernel_messages()[len(before) :]
    (folder / "results.json").write_text(json.dumps(results))
    return bool(results["errors"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
