# SPDX-License-Identifier: Apache-2.0
"""Machines that a module's tests wait for: one for each kernel, which does all of its work at once; some machines at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support import kernels, vm
from tests.support.kernels import Kernel
from tests.vm.tracing import ROOT

AT_ONCE = 2  # each is emulated in one thread
SECONDS = 1200.0  # emulated, on a machine with other work, and it compiles
T = TypeVar("T")


@contextlib.contextmanager
def visits(
    request: pytest.FixtureRequest, parameter: str, visit: Callable[[Kernel, Path], T]
) -> Iterator[Callable[[str], T]]:
    """What came of a visit to a kernel, by its label. It has a folder, and is begun at once for each label that is the
    parameter of a selected test of the module, for others when they are asked for.
    """
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    mine = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    chosen = {item.callspec.params.get(parameter) for item in mine}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun: dict[str, Future[T]] = {}

        def begin(label: str) -> Future[T]:
            folder = folders.mktemp(f"{parameter}-{label}")
            return pool.submit(lambda: visit(kernels.kernel(label), folder))

        def found(label: str) -> T:
            kernels.needed(label)
            if label not in begun:
                begun[label] = begin(label)
            return begun[label].result()

        begun |= {label: begin(label) for label in kernels.SUITES if label in chosen}
        yield found


def run(kernel: Kernel, command: Sequence[str], folder: Path, *, parameters: str = "") -> vm.Ran:
    """Runs a command in this checkout's folder, on a machine that has `folder` for real."""
    environ = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return vm.run(kernel, command, seconds=SECONDS, shared=folder, folder=ROOT, environ=environ, parameters=parameters)
