# SPDX-License-Identifier: Apache-2.0
"""The agent of a node: whatever plan is in effect is made true, again and again.

    plan -> desired -> one engine that sees what all of them want -> the processes of each -> how each stands

While nothing is to be traced there is no engine, and nothing in the kernel. A profile that wants more than is attached
makes the engine see more, with all others going on; only where that cannot be (another mechanism is called for, or
stacks where there were none) another engine takes its place: the one ceases and the other begins. What cannot be
compiled or loaded fails those who want it; the engine that there is goes on.

A plan is read and followed for no more than half of the loop's time: plans that come faster are passed over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from kernelspan_agent.control.peering import Peering
from kernelspan_agent.control.stream import Stream
from kernelspan_agent.engine import Engine
from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.guard import capabilities
from kernelspan_agent.node.desired import Desired, Reader
from kernelspan_agent.node.exports import Exports
from kernelspan_agent.node.report import Reports
from kernelspan_agent.node.trouble import Trouble
from kernelspan_agent.node.unobserved import Unobserved
from kernelspan_agent.node.warm import Warm
from kernelspan_agent.node.whom import Whom
from kernelspan_agent.probes.ready import Ready
from kernelspan_agent.probes.session import Session
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.selftrace import span
from kernelspan_api.control.control_pb2 import NodePlan
from kernelspan_api.plan import Wanted, together
from kernelspan_api.reasons import Reason

IDLE_SECONDS = 0.02  # between looks for a plan while nothing is traced
READ_SECONDS = 0.05  # of a plan, between two looks at the ring
REPORT_SECONDS = 0.2
FINISH_SECONDS = 5.0  # for what was drained and not taken on when an engine ends
RETRY_SECONDS = 30.0  # a machine that could not load may be able to after somebody has mended it
LINGER_SECONDS = 2.0  # what a profile's processes did before it was taken out is on the way for so long
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Building:
    """What is being compiled. `engine`: the one that is to see more by it; None: another one is made of it."""

    wanted: Wanted
    engine: Engine | None
    made: Future[Ready]


class Follower:
    """Follows the plans of a stream. `run` it."""

    def __init__(
        self,
        stream: Stream,
        exports: Exports,
        environ: Mapping[str, str],
        resource_of: Callable[[Desired], ResourceSettings],
        peering: Peering | None = None,
    ) -> None:
        """`resource_of`: what every resource of a profile has. `peering`: the agents of other nodes, if they are asked."""
        self._stream, self._exports, self._environ, self._resource_of = stream, exports, environ, resource_of
        self.peering = peering
        self.engine: Engine | None = None
        self.plan: NodePlan | None = None
        self.unobserved = Unobserved()
        self.last_step_seconds = time.monotonic()
        self._desired: list[Desired] = []
        self._troubles: dict[str, Trouble] = {}
        self._leaving: dict[str, float] = {}
        self._whom: Whom | None = None
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._warm = Warm(environ)
        self._unfit = _unfit()
        self._building: _Building | None = None
        self._reports = Reports()
        self._reader = Reader()
        self._next_report = self._next_plan = self._retry_at = 0.0

    def trouble(self) -> str:
        """Why it does not do its work now; empty: it does."""
        if self._unfit is not None:
            return self._unfit.with_hint()
        if self.plan is None:
            return "no plan has come from the operator yet"
        if self.engine is None and any(each.profile for each in self._desired):
            return (
                "; ".join(sorted({each.message for each in self._troubles.values()})) or "the programs are being loaded"
            )
        return ""

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until `stopped` says so; then what is under way is sent."""
        if self._unfit is None:  # else what is compiled is what such an agent could load
            self._warm.start()
        while not stopped():
            self.step()
        self._warm.end()
        if self.engine is not None:
            self._end_engine()
        self._compiler.shutdown(wait=False, cancel_futures=True)
        self._exports.wait()

    def step(self) -> None:
        """A look at the plan, and one step of what traces."""
        now = self.last_step_seconds = time.monotonic()
        if now >= self._next_plan:
            self._look_for_plan()
        self._finish_building(now)
        if self._retry_at and now >= self._retry_at:
            self._retry_at = 0.0
            self._ensure()
        if self.engine is not None:
            self.engine.step(0.002 if self.engine.processes.has_pending else IDLE_SECONDS)
            self._look(now)
        else:
            time.sleep(IDLE_SECONDS)
        if now >= self._next_report:
            self._report(now)

    def _look_for_plan(self) -> None:
        began = time.monotonic()
        plan = self._reader.plan
        if plan is None:
            plan = self._stream.plan
            if plan is None or plan is self.plan:
                return
            self._reader.begin(plan)
        desired = self._reader.go_on(READ_SECONDS)
        if desired is not None:
            self._follow(plan, desired, time.monotonic())
        ended = time.monotonic()
        self._next_plan = ended + (ended - began)

    # --- a plan -------------------------------------------------------------------------------------------------------

    def _follow(self, plan: NodePlan, desired: list[Desired], now: float) -> None:
        with span("agent.plan", hash=plan.hash, profiles=len(plan.profiles), pods=len(plan.pods)):
            self.plan, self._desired, self._retry_at = plan, desired, 0.0
            self.unobserved.planned(plan)
            self._reports.keep({each.uid for each in desired})
            self._troubles.clear()
            self._whom = None
            self._ensure()
            if self.engine is not None:
                self._fill(self.engine, now)
        _log.info(
            "plan.followed hash=%s profiles=%d pods=%d seconds=%s",
            plan.hash, len(plan.profiles), len(plan.pods), round(time.monotonic() - now, 3),
        )  # fmt: skip
        self._report(now)

    def _ensure(self) -> None:
        """What is wanted is seen, or is being compiled: for seconds, in another thread."""
        wanted = together([each.wanted for each in self._desired if each.profile is not None])
        engine = self.engine
        if not wanted.operations and not wanted.probes:
            if engine is not None:
                self._end_engine()
        elif self._building is None and (engine is None or engine.session.lacks(wanted)):
            if engine is not None and engine.session.can_see(wanted):
                made = self._compile(partial(engine.session.build_more, wanted, self._environ))
                self._building = _Building(wanted, engine, made)
            else:
                made = self._compile(partial(self._prepare, wanted))
                self._building = _Building(wanted, None, made)

    def _prepare(self, wanted: Wanted) -> Ready:
        """What a first engine, or another one, needs. Raises MachineError."""
        if self._unfit is not None:
            raise self._unfit
        return Session.prepare(wanted, self._environ, watch_exec=True)

    def _compile(self, make: Callable[[], Ready]) -> Future[Ready]:
        def alone() -> Ready:
            with self._warm.pause():
                return make()

        return self._compiler.submit(alone)

    def _finish_building(self, now: float) -> None:
        building = self._building
        if building is None or not building.made.done():
            return
        self._building = None
        if not any(each.profile for each in self._desired) or building.engine not in (None, self.engine):
            if building.made.exception() is None:
                building.made.result().close()
            self._ensure()  # it is not wanted any more, or the engine is another
            return
        try:
            ready = building.made.result()
            if building.engine is not None:
                building.engine.session.extend(building.wanted, ready)
            else:
                self._open_engine(building.wanted, ready)
        except (KernelspanError, OSError) as error:
            reason, hint = (error.reason, error.hint) if isinstance(error, KernelspanError) else ("CompileFailed", "")
            _log.error("engine.failed reason=%s message=%s hint=%s", reason, error, hint)
            here = self.engine.profiles if self.engine is not None else {}
            message = error.with_hint() if isinstance(error, KernelspanError) else str(error)
            self._fail([each.key for each in self._desired if each.key not in here], reason, message)
            self._retry_at = now + RETRY_SECONDS
            return
        self._troubles.clear()
        self._ensure()  # another plan may have come meanwhile
        if self.engine is not None:
            self._fill(self.engine, now)

    def _open_engine(self, wanted: Wanted, ready: Ready) -> None:
        before, engine = self.engine, Engine(wanted, self._environ, watch_exec=True, ready=ready)
        self.engine = engine
        engine.on_exec = self._on_exec
        self._attach()
        self._leaving.clear()
        if before is not None:
            _log.warning("engine.replaced mechanism=%s", engine.session.mechanism.name)
            before.joins.hang_up()
            before.cease()
            self._fill(engine, time.monotonic())
            self._end(before)

    def _attach(self) -> None:
        """The agents of other nodes are asked by the engine that there is, and ask it."""
        if self.peering is not None:
            self.peering.attach(self.engine.clock.now_ns if self.engine is not None else None)
            if self.engine is not None:
                self.engine.joins.post = self.peering

    def _fail(self, keys: list[str], reason: str, message: str) -> None:
        self._troubles.update({key: Trouble(reason, message) for key in keys})

    def _fill(self, engine: Engine, now: float) -> None:
        """The engine's profiles are those of the plan that it can see; then who is whose is looked at anew."""
        assert self.plan is not None
        for each in self._desired:
            if each.profile is None or engine.session.lacks(each.wanted):
                continue
            self._leaving.pop(each.key, None)
            if each.key in engine.profiles:
                continue
            try:
                exporter = self._exports.open(each.uid, each.profile, each.secret)
            except KernelspanError as error:
                self._fail([each.key], error.reason, error.with_hint())
            except (
                OSError,
                RuntimeError,
                ValueError,
            ) as error:  # no thread, no descriptor is left, or what nobody thought of
                self._fail([each.key], Reason.BUDGET_EXCEEDED.value, f"its exporter cannot be opened: {error}")
            else:
                engine.add(each.key, each.profile, exporter, self._resource_of(each))
        # one that is refused may bear the uid of another
        here = [each for each in self._desired if each.profile is not None and each.key in engine.profiles]
        for key in set(engine.profiles) - {each.key for each in here} - set(self._leaving):
            self._leaving[key] = now + LINGER_SECONDS
        engine.prune()  # what was compiled for a profile that has left meanwhile
        self._whom = Whom(self.plan, here, self.unobserved)
        self._whom.scan(engine, now)

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _on_exec(self, pid: int, when_ns: int) -> None:
        if self.engine is not None and self._whom is not None:
            self._whom.started(self.engine, pid, when_ns)

    def _look(self, now: float) -> None:
        engine = self.engine
        assert engine is not None
        if self._whom is not None:
            self._whom.scan(engine, now)
        for key, when in list(self._leaving.items()):
            if now >= when:
                del self._leaving[key]
                self._remove(engine, key)

    def _remove(self, engine: Engine, key: str) -> None:
        self._reports.leaves(key, engine.accounting_of(key))
        self._exports.close_later(engine.remove(key).exporter)

    def _report(self, now: float) -> None:
        self._stream.report(self._reports.states(self._desired, self.engine, self._whom, self._troubles, now))
        ended = time.monotonic()
        self._next_report = ended + max(REPORT_SECONDS, 10 * (ended - now))  # of 1,000 profiles each takes a while

    def _end_engine(self) -> None:
        engine, self.engine = self.engine, None
        assert engine is not None
        self._whom = None
        self._leaving.clear()
        engine.joins.hang_up()
        self._attach()
        self._end(engine)

    def _end(self, engine: Engine) -> None:
        try:
            engine.finish(FINISH_SECONDS)
            for key in list(engine.profiles):
                self._remove(engine, key)
        finally:
            engine.close()


def _unfit() -> MachineError | None:
    """What this process lacks for any engine, as long as it lives; None: nothing."""
    try:
        capabilities.require()
    except MachineError as error:
        return error
    return None
