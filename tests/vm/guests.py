# SPDX-License-Identifier: Apache-2.0
"""Machines that a module's tests wait for: one for each kernel, which does all of its work at once; some machines at a time.

A module says by VISITS what it does on a kernel. Where tests of other tiers come first, one visit at a time is made meanwhile,
behind them (nice): they leave most of a second CPU idle, and an emulated machine compiles for minutes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pytest

from tests.support import kernels, vm
from tests.support.kernels import Kernel
from tests.vm.tracing import ROOT

AT_ONCE = 2  # each is emulated in one thread
NICE = 10  # of those that are made ahead
SECONDS = 2400.0  # emulated, on a machine with other work, and it compiles
T = TypeVar("T")
_Key = tuple[str, str, str]  # module, fixture, kernel


@dataclass(frozen=True, slots=True)
class Visits(Generic[T]):
    """What a module does on a kernel (which it is given, with a folder), and the fixture of it whose parameters are kernels."""

    fixture: str
    visit: Callable[[Kernel, Path], T]

    def labels(self, items: Iterable[pytest.Item], module: ModuleType) -> list[str]:
        """The kernels that selected tests of the module ask for by the fixture."""
        mine = (item for item in items if isinstance(item, pytest.Function) and item.module is module)
        chosen = {item.callspec.params.get(self.fixture) for item in mine if hasattr(item, "callspec")}
        return [label for label in kernels.SUITES if label in chosen]


class Made:
    """The visits of a session, each made once. `close` ends those that are under way. `repeated`: what was made again, and why."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="visits-")
        self._ahead = ThreadPoolExecutor(
            1, initializer=lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        )
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._begun: dict[_Key, Future[Any]] = {}
        self._made_ahead: set[_Key] = set()

    def begin(self, visits: Visits[Any], module: ModuleType, label: str, *, ahead: bool = False) -> None:
        """Makes a visit unless it is made already. `ahead`: behind whatever else the machine does."""
        key = (module.__name__, visits.fixture, label)
        begun = self._begun.get(key)
        if begun is None or begun.cancel():  # one that was to be made ahead and had no turn yet
            pool = self._ahead if ahead else self._pool
            (self._made_ahead.add if ahead else self._made_ahead.discard)(key)
            self._begun[key] = pool.submit(self._visit, visits, module.__name__, label)

    def found(self, visits: Visits[T], module: ModuleType, label: str) -> T:
        """What came of it. One made ahead that failed is made again: it may have had too little of the machine's time."""
        kernels.needed(label)
        self.begin(visits, module, label)
        key = (module.__name__, visits.fixture, label)
        if key in self._made_ahead and (failed := self._begun[key].exception()) is not None:
            self.repeated.append(f"{'-'.join(key)}: {str(failed)[-2000:]}")
            self._made_ahead.discard(key)
            del self._begun[key]
            self.begin(visits, module, label)
        found: T = self._begun[key].result()
        return found

    def _visit(self, visits: Visits[T], module: str, label: str) -> T:
        folder = Path(tempfile.mkdtemp(dir=self._folder.name, prefix=f"{module.rpartition('.')[2]}-{label}-"))
        return visits.visit(kernels.kernel(label), folder)

    def close(self) -> None:
        """Leaves no machine behind."""
        for pool in (self._ahead, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)
        while not all(each.done() for each in self._begun.values()):
            vm.stop_all()
            with contextlib.suppress(Exception):
                next(each for each in self._begun.values() if not each.done()).exception(0.1)
        self._folder.cleanup()


MADE = pytest.StashKey[Made]()


def visited(request: pytest.FixtureRequest, own: Visits[T], label: str) -> T:
    """What came of the requesting module's visit to this kernel. Those to other kernels, of its selected tests, begin with it."""
    module, made = request.module, request.config.stash[MADE]
    for each in own.labels(request.session.items, module):
        made.begin(own, module, each)
    return made.found(own, module, label)


def run(kernel: Kernel, command: Sequence[str], folder: Path, *, parameters: str = "", network: bool = False) -> vm.Ran:
    """Runs a command in this checkout's folder, on a machine that has `folder` for real."""
    environ = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return vm.run(
        kernel, command, seconds=SECONDS, shared=folder, folder=ROOT, environ=environ,
        parameters=parameters, network=network,
    )  # fmt: skip
