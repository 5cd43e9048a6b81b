# SPDX-License-Identifier: Apache-2.0
"""Which walkers a session begins with, and how others are compiled beside it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kernelspan_agent.probes import build, children, constants
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.source import walkers
from kernelspan_agent.ring.size import RING_BYTES
from kernelspan_api.plan import together

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("runtimes", "expected"),
    [((), {"python"}), (("php",), {"php"}), (("php", "python"), {"php", "python"}), (("cobol",), set())],
)
def test_walkers_of_the_start(runtimes: tuple[str, ...], expected: set[str]) -> None:
    """Those that are named, else the usual one; none without stacks."""
    wanted = replace(EVERYTHING, runtimes=runtimes)
    assert {module.name for module in modules_of(wanted)} & set(walkers()) == expected
    assert not {module.name for module in modules_of(replace(wanted, max_depth=0))} & set(walkers())


def test_what_several_profiles_want() -> None:
    """One that names none wants any."""
    php, python, any_of = (replace(EVERYTHING, runtimes=names) for names in (("php",), ("python",), ()))
    assert together([php, python]).runtimes == ("php", "python")
    assert together([php, any_of]).runtimes == ()


@pytest.mark.parametrize(("compilers", "at_once"), [("1", 1), ("2", 2)])
def test_compilers_take_turns_where_memory_is_bounded(compilers: str, at_once: int, tmp_path: Path) -> None:
    """Whoever compiles, in whatever thread: a pod's memory has room for one compiler."""
    environ = {**os.environ, children.AT_ONCE_VARIABLE: compilers, "KERNELSPAN_CACHE": str(tmp_path)}
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=False, raw=True)
    modules = [build.Module(runtime.name, runtime.walker.programs) for runtime in walkers().values()]
    threads = [threading.Thread(target=build.build, args=([module], defines, environ)) for module in modules[:2]]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(children.running))
        time.sleep(0.001)
    assert most == at_once
    assert len(list(tmp_path.glob("*.json"))) == 2
