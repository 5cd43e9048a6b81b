# SPDX-License-Identifier: Apache-2.0
"""Probes on user code, as processes come that have the code: each file is looked at once, by a thread of its own, and what it
came to is attached by the thread that owns the programs.

A file that has been seen is probed for every process that runs it from then on, from its first instruction. The first
process of a new file runs unobserved until its file has been read and, where it passes arguments in a way not seen before,
the program compiled: tens of milliseconds to a second. A library that is not there yet is looked for again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.probes.own.attached import OwnProbes
from kernelspan_agent.probes.own.probe import OwnProbe
from kernelspan_agent.process.errors import ProcessEndedError
from kernelspan_agent.process.symbols.where import AUTO

if TYPE_CHECKING:
    from kernelspan_agent.probes.own.prepare import Prepared
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.process.symbols.identity import Identity
    from kernelspan_api.userprobes import UserProbe

MAX_WAITING = 4096  # looks that are due
RETRIES_SECONDS = (0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # for code that a process has not loaded yet
PATIENCE = 4  # retries, 2.6 s together, after which a process is said not to have the code
MAX_TOGETHER = 8  # looks whose texts are compiled by one child
MAX_FILES = 256  # of one probe

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Look:
    """A probe to be looked for in the file `path`, of a process or (None) of this machine."""

    own: OwnProbe
    process: Process | None
    path: str
    tries: int = 0


@dataclass(slots=True)
class _Found:
    """What a look came to."""

    look: _Look
    identity: Identity | None = None
    prepared: Prepared | None = None
    problem: KernelspanError | None = None
    is_absent: bool = False  # this machine has nothing by that path


@dataclass(slots=True)
class UserFiles:
    """Of one session. `saw` and `tick` belong to one thread; `close` it."""

    own: OwnProbes
    defines: Mapping[str, int]
    environ: Mapping[str, str]
    _due: queue.SimpleQueue[_Look | None] = field(default_factory=queue.SimpleQueue)
    _done: queue.SimpleQueue[_Found] = field(default_factory=queue.SimpleQueue)
    _later: list[tuple[float, _Look]] = field(default_factory=list)
    _known: set[tuple[OwnProbe, Identity]] = field(default_factory=set)  # probes in files
    _thread: threading.Thread | None = None
    _open: int = 0  # looks whose answer has not come

    def saw(self, process: Process | None, specs: Sequence[UserProbe], executable: str = "") -> None:
        """A process that these probes are wanted of; None: whatever this machine itself has by their paths.

        `executable`: of a program that is going to be run, for probes that name no path.
        """
        for spec in specs:
            own = self.own.get(spec)
            if own is None or spec.file is None:
                continue
            path = spec.file if process is not None or spec.file != AUTO else executable
            if path:
                self._look(_Look(own, process, path))

    def _look(self, look: _Look) -> None:
        if self._open >= MAX_WAITING:
            _log.warning("probe.file.skipped probe=%s reason=TooManyProcesses", look.own.spec.name)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="files", daemon=True)
            self._thread.start()
        self._open += 1
        self._due.put(look)

    def forget(self, own: OwnProbe) -> None:
        """A probe that is removed; what its looks come to is not attached any more."""
        self._later = [each for each in self._later if each[1].own is not own]
        self._known = {each for each in self._known.copy() if each[0] is not own}

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
        if self.own.get(own.spec) is not own:  # it has been removed meanwhile
            if found.prepared is not None:
                found.prepared.close()
            return
        if found.problem is not None:
            self._miss(found.look, found.problem, is_absent=found.is_absent)
        elif found.identity is not None and found.prepared is not None:  # else known already, or the process has ended
            if found.identity in own.files or len(own.files) >= MAX_FILES:
                found.prepared.close()
                if found.identity not in own.files:
                    _log.warning("probe.file.skipped probe=%s reason=TooManyProbes", own.spec.name)
                return
            problem = self._attach(own, found.prepared)
            if problem is None:
                own.files.add(found.identity)
                own.waits = False
            else:
                _tell(own, problem)

    def _attach(self, own: OwnProbe, prepared: Prepared) -> KernelspanError | None:
        own.problem = None
        self.own.attach(own, prepared)
        return own.problem

    def _miss(self, look: _Look, problem: KernelspanError, *, is_absent: bool) -> None:
        """What is not there may come: a library is loaded late, and this machine's files are not those of a container."""
        own = look.own
        retries = RETRIES_SECONDS if look.process is not None else ()
        if look.tries < len(retries) and problem.reason in _MAY_COME:
            self._later.append((time.monotonic() + retries[look.tries], look))
            look.tries += 1
        if not own.is_attached:
            # of a program that is named a library or another one that it starts may have the code
            awaits = look.tries <= PATIENCE if look.process is not None else is_absent or own.spec.file == AUTO
            if awaits and problem.reason in _MAY_COME:
                own.awaits = problem
            else:
                own.problem = problem
        elif problem.reason not in _MAY_COME:
            _tell(own, problem)

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
        from kernelspan_agent.probes.own import looking  # noqa: PLC0415 - what reads files, 1 MB resident

        found = _Found(look)
        try:
            with looking.binary_of(look.own.spec, look.process, look.path) as binary:
                key = (look.own, binary.identity)
                if key in self._known:
                    return found
                self._known.add(key)
                found.identity = binary.identity
                try:
                    found.prepared = looking.planned_in(look.own.spec, binary)
                except BaseException:
                    self._known.discard(key)
                    raise
        except ProcessEndedError:
            pass
        except KernelspanError as error:
            found.problem = error
            found.is_absent = look.process is None and not os.path.lexists(look.path)
        except Exception as error:  # noqa: BLE001 - files are hostile, and the next look is to be answered too
            found.problem = MachineError(f"its file cannot be read: {error!r}", reason="BinaryNotFound")
        return found

    def _compiled(self, looks: Sequence[_Found]) -> Iterator[_Found]:
        """The same with their modules; a text that does not compile fails alone."""
        from kernelspan_agent.probes.own.prepare import build_all  # noqa: PLC0415 - as above

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
                        self._known.discard((each.look.own, each.identity))
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
            if found.prepared is not None:
                found.prepared.close()


def _tell(own: OwnProbe, problem: KernelspanError) -> None:
    _log.warning("probe.file.failed probe=%s reason=%s message=%s", own.spec.name, problem.reason, problem)


_MAY_COME = {"BinaryNotFound", "SymbolNotFound", "UsdtNotFound"}
