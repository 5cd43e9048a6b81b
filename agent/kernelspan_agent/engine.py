# SPDX-License-Identifier: Apache-2.0
"""A running agent: one set of programs in the kernel, the stages behind it, and any number of profiles that share it.

A process that profiles want is of a match class: the set of those profiles. The kernel filters by the class, as widely as
all of its profiles together; what each of them wants of it is decided in its ProfileRun. The ring's thread is Intake's;
everything else happens in the thread that calls `run` or `step`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.accounting import Accounting
from kernelspan_agent.classes import NOBODY, Classes
from kernelspan_agent.errors import BudgetError, MachineError
from kernelspan_agent.guard.budget import Guard
from kernelspan_agent.intake import IDLE_WAIT_SECONDS, Intake
from kernelspan_agent.libraries.base import Libraries
from kernelspan_agent.lost import LostProcesses
from kernelspan_agent.probes import quiet
from kernelspan_agent.probes.own.files import UserFiles
from kernelspan_agent.probes.session import Session
from kernelspan_agent.probes.walkers import Walkers
from kernelspan_agent.process import procfs
from kernelspan_agent.profile_run import ProfileRun, rows_of
from kernelspan_agent.resolve.acts import Acts
from kernelspan_agent.resolve.clock import Clock
from kernelspan_agent.resolve.processes import ProcessTable
from kernelspan_agent.resolve.tables import Tables
from kernelspan_agent.resolve.traced import TracedProcess
from kernelspan_agent.ring.size import ROOM
from kernelspan_agent.trace.joins import Joins
from kernelspan_api import semconv
from kernelspan_api.plan import Wanted, key_of

if TYPE_CHECKING:
    from kernelspan_agent.export.base import Exporter
    from kernelspan_agent.model import AttributeValue
    from kernelspan_agent.probes.mechanisms import Mechanism
    from kernelspan_agent.probes.ready import Ready
    from kernelspan_agent.resolve.resource import ResourceSettings
    from kernelspan_agent.ring.reader import Drained
    from kernelspan_agent.runtimes.look import FileCache
    from kernelspan_api.profile import TraceProfile

TICK_SECONDS = 0.2
STEP_SECONDS = 0.05
FILES_SECONDS = 120.0  # the largest binaries take some, and so do compiles of many probes
FLAGS_LOOK_SECONDS = 1.0
MOST_AT_ONCE = 4096  # operations


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of an agent's own life, for the report."""

    open_seconds: float = 0.0
    compile_seconds: float = 0.0
    compile_cached: bool = False


class Engine:
    """Everything between the kernel and the exporters. `close` it."""

    def __init__(
        self,
        wanted: Wanted,
        environ: Mapping[str, str],
        *,
        mechanism: Mechanism | None = None,
        ring_bytes: int = 0,
        watch_exec: bool = False,
        ready: Ready | None = None,
        files: FileCache | None = None,
    ) -> None:
        """Builds (unless it is `ready`), loads and attaches what is wanted. Raises MachineError; nothing is left behind."""
        started = time.monotonic()
        self.clock = Clock()
        self.session = Session.open(
            wanted, environ, ring_bytes=ring_bytes, watch_exec=watch_exec, mechanism=mechanism, ready=ready
        )
        built = self.session.built
        self.timings = Timings(time.monotonic() - started, built.seconds, built.cached)
        self._walkers = Walkers(self.session, environ)
        try:
            self._intake = Intake(self.session)
        except OSError as error:
            self.session.close()
            raise MachineError(f"the ring cannot be mapped: {error.strerror}", hint=ROOM) from error
        self.processes = ProcessTable(
            self.session,
            Libraries(),
            lambda monotonic_ns: monotonic_ns + self.clock.offset_ns,
            glances=self._intake.glance_of,
            files=files,
            whose=lambda tgid: self._classes.uids(self.session.procs.match_class(tgid)),
        )
        self.tables = Tables(self.processes, self.clock, self.session)
        self.acts = Acts()
        self.joins = Joins()
        self.profiles: dict[str, ProfileRun] = {}
        self._pods: dict[str, int] = {}  # numbers by uid
        self._classes = Classes(self.session, self._intake, self.tables)
        self.on_exec: Callable[[int, int], object] = max  # told of programs that start, and when; nothing by itself
        self._next_tick = self._next_look = 0.0
        self._lost = LostProcesses(self.session, self._intake, self.processes, self.clock.monotonic_now_ns)
        self._files = UserFiles(self.session.own, self.session.defines, environ)
        self.guard = Guard(self.session, self._classes, time.monotonic())
        self._random = np.random.default_rng()
        self.last_step_seconds = time.monotonic()
        self._stepped = self._ended = False

    # --- whom, and for whom -------------------------------------------------------------------------------------------

    def add(self, uid: str, profile: TraceProfile, exporter: Exporter, resource: ResourceSettings) -> ProfileRun:
        """Takes a profile in; what it wants must be attached. It has no processes yet: `want` them for it."""
        run = self.profiles[uid] = ProfileRun(
            uid,
            profile,
            exporter,
            resource,
            self.tables,
            self.clock,
            lambda file, path: self._classes.reject(uid, file, path),
            self.session.own,
            self.acts,
            self.joins,
        )
        self.guard.add(run)
        return run

    def look_here(self, uid: str, executable: str = "") -> None:
        """Probes on user code that name a path are attached to this machine's own file of that path, now.

        `executable`: a program that is going to be run, for those that name none.
        """
        self._files.saw(None, self.profiles[uid].wanted.probes, executable)
        self._files.wait(FILES_SECONDS)

    def remove(self, uid: str) -> ProfileRun:
        """Takes a profile out; what of it is open ends. Its exporter is the caller's."""
        for traced in self.processes.alive():  # some may have been told of only now
            if uid in traced.wanted_by:
                with contextlib.suppress(BudgetError):
                    self.want(traced, traced.wanted_by - {uid})
        run = self.profiles.pop(uid)
        self._classes.retire(uid)
        self.guard.remove(uid)
        run.close()
        self.prune()
        return run

    def prune(self) -> None:
        """Detaches the own probes that no profile here wants."""
        wanted = {key_of(probe) for run in self.profiles.values() for probe in run.wanted.probes}
        for own in [own for own in self.session.own if key_of(own.spec) not in wanted]:
            self._files.forget(own)
            self.session.own.remove(own)

    def want(self, traced: TracedProcess, uids: frozenset[str]) -> None:
        """Who wants a traced process from now on; its children begin with the same.

        Raises BudgetError: it stays with whom it has if they all want it still, else nobody has it.
        """
        if uids == traced.wanted_by:
            return
        try:
            number = self._class(uids)
        except BudgetError:
            if not traced.wanted_by <= uids:
                traced.wanted_by = frozenset()
                self.session.procs.assign(traced.tgid, traced.start_ns, NOBODY)
            raise
        before, traced.wanted_by = traced.wanted_by, uids
        self.session.procs.assign(traced.tgid, traced.start_ns, number)
        self._saw(traced, uids - before)

    def _saw(self, traced: TracedProcess, uids: frozenset[str]) -> None:
        if traced.process is not None:
            for uid in uids:
                self._files.saw(traced.process, self.profiles[uid].wanted.probes)

    def trace(
        self,
        pid: int,
        name: str,
        uids: frozenset[str],
        *,
        held: bool = False,
        surroundings: Mapping[str, AttributeValue] | None = None,
    ) -> TracedProcess:
        """Traces a process that exists already.

        `held`: a child of ours that waits for its exec; its frames are ours. `surroundings`: what its pod says of it.
        """
        number = self._class(uids)
        if self.session.process_start(pid) is not None:  # a child of a traced one, of which no record was read yet
            self.processes.recover(pid)
            if (known := self.processes.latest(pid)) is not None:
                known.surroundings = surroundings or {}
                self.want(known, uids)
                self._tell_started()
                return known
        start = self.clock.monotonic_now_ns()
        self.session.procs.trace(
            pid, start, number, self._pod_number(surroundings)
        )  # first: the kernel is told of runtimes of images that it knows
        traced = self.processes.add(pid, start, name=name, from_start=held, wanted_by=uids)
        traced.surroundings = surroundings or {}
        if not procfs.runs(pid):  # it ended before the kernel knew it, which would keep it for whoever is given its pid
            self.session.procs.leave(pid, start)
            self.processes.end(traced, self.clock.monotonic_now_ns())
        if held:
            self.processes.leave_unwalked(traced)
        self._tell_started()
        self.processes.detect_pending(self.clock.monotonic_now_ns())
        return traced

    def _pod_number(self, surroundings: Mapping[str, AttributeValue] | None) -> int:
        uid = str((surroundings or {}).get(semconv.K8S_POD_UID, ""))
        return self._pods.setdefault(uid, len(self._pods) + 1) if uid else 0

    def _class(self, uids: frozenset[str]) -> int:
        number = self._classes.known(uids)
        if number is None:
            number = self._classes.make(uids, [self.profiles[uid].wanted for uid in sorted(uids)])
            for uid in uids:
                self.profiles[uid].shared = self._classes.is_shared(uid)
        return number

    # --- the stages ---------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool]) -> None:
        """Works until `until` says so; it is asked at least 20 times a second."""
        while not until():
            self.step(0.002 if self.processes.has_pending else IDLE_WAIT_SECONDS)

    def step(self, timeout_seconds: float) -> None:
        """Takes on what waits, for STEP_SECONDS if there is more than one drained piece, and does what is due."""
        self.last_step_seconds = time.monotonic()
        self._stepped = True
        drained = self._intake.next(timeout_seconds)
        end = time.monotonic() + STEP_SECONDS
        while drained is not None:
            self._process(drained)
            drained = self._intake.next(0.0) if time.monotonic() < end else None
        self.joins.correspond()
        self._walkers.tick(self.processes)
        self.processes.detect_pending(self.clock.monotonic_now_ns())
        self._files.tick()
        now = time.monotonic()
        self.guard.tick(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._housekeep(now)

    def _process(self, drained: Drained) -> None:
        if drained.is_cut:
            for run in self.profiles.values():
                run.tracer.lose()
        self.tables.learn(drained.others)
        self._intake.look_ahead(self.tables.learn_ahead)
        self._take_in()
        ops = drained.operations
        if len(ops) > MOST_AT_ONCE:
            ops = ops[np.argsort(ops["time"], kind="stable")]
        for begin in range(0, len(ops), MOST_AT_ONCE):
            self.guard.tick(time.monotonic())  # it is wanted most when there is most to do
            self._intake.look_ahead(self.tables.learn_ahead)
            self._take(ops[begin : begin + MOST_AT_ONCE])
        if len(ops):
            self._intake.done(drained)
        self.tables.payloads.age()
        self._tell_ended()

    def _take(self, operations: np.ndarray) -> None:
        taken = self.tables.take(operations)
        self._take_in()  # processes whose records were lost
        for run in self.profiles.values():
            mine = rows_of(taken, self._classes.mask(run.uid))
            if len(mine.ops):
                run.process(self.guard.thin(run.uid, mine, self._random), len(mine.ops))

    def _take_in(self) -> None:
        """What is to be done about processes that were not known before, or are other programs now."""
        self._tell_started()
        execs = list(self.processes.execs)
        self.processes.execs.clear()
        for tgid, when_ns in execs:
            self.on_exec(tgid, when_ns)

    def _tell_started(self) -> None:
        for traced in self.processes.started:
            # The kernel has passed on who wanted it at that moment: that may have changed since, and its parent's not.
            self._settle(traced)
            for uid in traced.wanted_by:
                self.profiles[uid].started(traced)
            self._saw(traced, traced.wanted_by)
        self.processes.started.clear()

    def _settle(self, traced: TracedProcess) -> None:
        traced.wanted_by = frozenset(uid for uid in traced.wanted_by if uid in self.profiles)
        try:
            number = self._class(traced.wanted_by)
        except BudgetError:
            traced.wanted_by, number = frozenset(), NOBODY
        if not traced.ended_ns:
            self.session.procs.assign(traced.tgid, traced.start_ns, number)

    def _tell_ended(self) -> None:
        for traced in self.processes.finished:
            for run in self.profiles.values():
                run.ended(traced)
        self.processes.finished.clear()

    def _housekeep(self, now: float) -> None:
        if self.clock.stepped():  # somebody set the wall clock: what is open ends in the old time
            for run in self.profiles.values():
                run.close_spans()
        monotonic = self.clock.monotonic_now_ns()
        # what is still in the ring or the queue may be as old as the last drain
        all_in_ns = monotonic + self.clock.offset_ns - int(TICK_SECONDS * 1e9)
        for run in self.profiles.values():
            run.tick(all_in_ns)
        self.joins.settle(all_in_ns)
        for run in self.profiles.values():
            run.release()
        self.session.own.reap()  # what was removed before the last time
        self._lost.tick()
        self.processes.sweep(monotonic)
        for traced in self.processes.gone:
            for run in self.profiles.values():
                run.infos.forget(traced)
        self.processes.gone.clear()
        self.session.own.sweep(now)
        if now >= self._next_look:
            self._next_look = now + FLAGS_LOOK_SECONDS
            self.processes.look_for_flags()

    # --- how it is, for whoever asks from another thread ----------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        """Whether operations are being seen: from the first step, before which it is said whose, to `finish` or `close`."""
        return self._stepped and not self._ended

    @property
    def waiting_operations(self) -> int:
        """Operations that were drained and wait for the stages."""
        return self._intake.waiting

    def ring_fill(self) -> float:
        """Share of the ring buffer that waits to be drained."""
        return self._intake.fill()

    def accounting_of(self, uid: str, in_flight: Mapping[int, int] | None = None) -> Accounting:
        """A profile's balance; exact once `finish` has run. `in_flight`: what the session says of that, for many of them."""
        return self._classes.accounting(self.profiles[uid], in_flight)

    # --- the end ------------------------------------------------------------------------------------------------------

    def cease(self) -> None:
        """No operation is seen from now on, but for those that have begun: another engine takes over."""
        self.guard.close()
        self._classes.cease()

    def finish(self, within_seconds: float = math.inf) -> None:
        """Detaches, takes on what is still in the ring, and closes what is open. Exporters are their owners' to close.

        What is not taken on in that time stays in flight.
        """
        end = time.monotonic() + within_seconds
        self.guard.close()
        self.session.detach()
        quiet.wait()
        self.session.own.sweep()
        self._ended = True
        self._intake.stop(rest=True)
        while time.monotonic() < end and (drained := self._intake.next(0.0)) is not None:
            self._process(drained)
        for run in self.profiles.values():
            run.close_spans()

    def close(self) -> None:
        """Gives everything back to the kernel; what was not exported is lost."""
        self._ended = True
        self._files.close()
        self.guard.close()
        self._walkers.close()
        self.session.detach()
        self._intake.close()
        self.session.close()
        self.processes.close()
