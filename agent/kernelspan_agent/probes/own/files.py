# SPDX-License-Identifier: Apache-2.0
"""Probes on user code, as processes come that have the code: each file is looked at once, by a thread of its own, and what it
came to is attached by the thread that owns the programs.

A file that has been seen is probed for every process that runs it from then on, from its first instruction. The first
process of a new file runs unobserved until its file has been read and, where it passes arguments in a way not seen before,
the program compiled: tens of milliseconds to a second. A library that is not there yet is looked for again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.own.attached import OwnProbe, OwnProbes
from kernelspan_agent.probes.own.machine import Machine
from kernelspan_agent.probes.own.prepare import Prepared, build_all, text_of
from kernelspan_agent.probes.own.user_functions import plan_in
from kernelspan_agent.process.errors import ProcessEndedError
from kernelspan_agent.process.procfs import Process
from kernelspan_agent.process.symbols.identity import Identity
from kernelspan_agent.process.symbols.usdt import find_probe
from kernelspan_agent.process.symbols.where import AUTO, Binary, mapped_binaries, open_binary, open_mapped, open_path
from kernelspan_api.userprobes import UserProbe

MAX_WAITING = 4096  # looks that are due
RETRIES_SECONDS = (0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # for code that a process has not loaded yet
MAX_TOGETHER = 8  # looks whose texts are compiled by one child
MAX_FILES = 256  # of one probe

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Look:
    """A probe to be looked for: in a process's files, or (None) in this machine's."""

    own: OwnProbe
    process: Process | None
    tries: int = 0


@dataclass(slots=True)
class _Found:
    """What a look came to."""

    look: _Look
    identity: Identity | None = None
    prepared: Prepared | None = None
    problem: KernelspanError | None = None


@dataclass(slots=True)
class UserFiles:
    """Of one session. `saw` and `tick` belong to one thread; `close` it."""

    own: OwnProbes
    defines: Mapping[str, int]
    environ: Mapping[str, str]
    _due: queue.SimpleQueue[_Look | None] = field(default_factory=queue.SimpleQueue)
    _done: queue.SimpleQueue[_Found] = field(default_factory=queue.SimpleQueue)
    _later: list[tuple[float, _Look]] = field(default_factory=list)
    _known: set[tuple[int, Identity]] = field(default_factory=set)  # probes by number, in files
    _thread: threading.Thread | None = None
    _open: int = 0  # looks whose answer has not come

    def saw(self, process: Process | None, specs: Sequence[UserProbe]) -> None:
        """A process that these probes are wanted of; None: whatever this machine itself has by their paths."""
        for spec in specs:
            own = self.own.get(spec)
            if own is None or not _is_user(spec) or (process is None and _path(spec) == AUTO):
                continue
            self._look(_Look(own, process))

    def _look(self, look: _Look) -> None:
        if self._open >= MAX_WAITING:
            _log.warning("probe.file.skipped probe=%s reason=TooManyProcesses", look.own.spec.name)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="files", daemon=True)
            self._thread.start()
        self._open += 1
        self._due.put(look)

    def wait(self, timeout_seconds: float) -> None:
        """Until every look so far is answered, for at most so long."""
        end = time.monotonic() + timeout_seconds
        while self._open and time.monotonic() < end:
            self.tick()
            time.sleep(0.002)

    def tick(self) -> None:
        """Attaches what has been found, and looks again where it is time."""
        while True:
            try:
                found = self._done.get_nowait()
            except queue.Empty:
                break
            self._open -= 1
            self._take(found)
        now = time.monotonic()
        due = [look for when, look in self._later if when <= now]
        self._later = [each for each in self._later if each[0] > now]
        for look in due:
            self._look(look)

    def _take(self, found: _Found) -> None:
        own = found.look.own
        if found.problem is not None:
            if not own.is_attached:
                own.problem = found.problem
            retries = RETRIES_SECONDS if found.look.process is not None else ()
            if found.look.tries < len(retries) and found.problem.reason in _MAY_COME:
                self._later.append((time.monotonic() + retries[found.look.tries], found.look))
                found.look.tries += 1
            return
        if found.identity is None:  # known already, or the process has ended
            return
        if found.prepared is not None and len(own.files) < MAX_FILES:
            own.problem = None
            self.own.attach(own, found.prepared)
            if own.problem is None:
                own.files.add(found.identity)
                own.waits = False

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while looks := self._next():
            found = [self._looked(look) for look in looks]
            for each in self._compiled(found):
                self._done.put(each)

    def _next(self) -> list[_Look]:
        """Waits for a look, and takes those that wait besides, which are compiled together; empty: it is over."""
        looks = [self._due.get()]
        while len(looks) < MAX_TOGETHER:
            try:
                looks.append(self._due.get_nowait())
            except queue.Empty:
                break
        if looks[-1] is None:  # the last there is
            return []
        return [look for look in looks if look is not None]

    def _looked(self, look: _Look) -> _Found:
        found = _Found(look)
        try:
            with _binary(look.own.spec, look.process) as binary:
                key = (look.own.number, binary.identity)
                if key in self._known:
                    return found
                self._known.add(key)
                found.identity = binary.identity
                try:
                    found.prepared = _prepared(look.own.spec, binary)
                except BaseException:
                    self._known.discard(key)
                    raise
        except ProcessEndedError:
            pass
        except KernelspanError as error:
            found.problem = error
        return found

    def _compiled(self, looks: Sequence[_Found]) -> Iterator[_Found]:
        """The same with their modules; a text that does not compile fails alone."""
        wanted = [each.prepared.generated for each in looks if each.prepared and each.prepared.generated]
        built = build_all(list({each.text: each for each in wanted}.values()), self.defines, self.environ)
        for each in looks:
            if each.prepared is not None and each.prepared.generated is not None:
                module = built[each.prepared.generated.text]
                if isinstance(module, KernelspanError):
                    if each.prepared.plan is not None:
                        each.prepared.plan.close()
                    each.problem, each.prepared = module, None
                    if each.identity is not None:
                        self._known.discard((each.look.own.number, each.identity))
                else:
                    each.prepared = replace(each.prepared, module=module)
            yield each

    def close(self) -> None:
        """Ends the thread, when it has done with what it is at."""
        if self._thread is not None:
            self._due.put(None)
            self._thread.join(1.0)
        while True:
            try:
                found = self._done.get_nowait()
            except queue.Empty:
                break
            if found.prepared is not None and found.prepared.plan is not None:
                found.prepared.plan.close()


def _prepared(spec: UserProbe, binary: Binary) -> Prepared:
    machine = Machine()
    try:
        plan = plan_in(spec, binary)
        return Prepared(spec, plan, text_of(spec, plan, machine))
    finally:
        machine.close()


_MAY_COME = {"BinaryNotFound", "SymbolNotFound", "UsdtNotFound"}


def _is_user(spec: UserProbe) -> bool:
    return spec.uprobe is not None or spec.usdt is not None


def _path(spec: UserProbe) -> str:
    if spec.uprobe is not None:
        return spec.uprobe.path
    return spec.usdt.path if spec.usdt is not None else AUTO


@contextmanager
def _binary(spec: UserProbe, process: Process | None) -> Iterator[Binary]:
    """The file that has the code. Raises SymbolError, ProcessError."""
    path = _path(spec)
    if process is None:
        with open_path(path) as found:
            yield found
        return
    if spec.usdt is None or path != AUTO:
        with open_binary(process, path) as found:
            yield found
        return
    problem: KernelspanError | None = None
    for mapping in mapped_binaries(process):  # the executable first, then its libraries
        try:
            with open_mapped(process, mapping) as found:
                find_probe(found, spec.usdt.provider, spec.usdt.probe)
                yield found
                return
        except KernelspanError as error:
            problem = problem or error
    raise problem or KernelspanError("the process maps no code", reason="UsdtNotFound")
