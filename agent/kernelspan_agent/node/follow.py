# SPDX-License-Identifier: Apache-2.0
"""The agent of a node: whatever plan is in effect is made true, again and again.

    plan -> desired -> one engine that sees what all of them want -> the processes of each -> how each stands

While nothing is to be traced there is no engine, and nothing in the kernel. A profile that wants more than is attached
makes the engine see more, with all others going on; only where that cannot be (another mechanism is called for, or
stacks where there were none) another engine takes its place, and between the two nothing is seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from kernelspan_agent.control.stream import Stream
from kernelspan_agent.engine import Engine
from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.node.desired import Desired, desired_of
from kernelspan_agent.node.exports import Exports
from kernelspan_agent.node.report import Reports
from kernelspan_agent.node.trouble import Trouble
from kernelspan_agent.node.unobserved import Unobserved
from kernelspan_agent.node.warm import Warm
from kernelspan_agent.node.whom import Whom
from kernelspan_agent.probes.build import Built
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.selftrace import span
from kernelspan_api.control.control_pb2 import NodePlan
from kernelspan_api.plan import Wanted, together

IDLE_SECONDS = 0.02  # between looks for a plan while nothing is traced
REPORT_SECONDS = 0.2
RETRY_SECONDS = 30.0  # a machine that could not load may be able to after somebody has mended it
LINGER_SECONDS = 2.0  # what a profile's processes did before it was taken out is on the way for so long
_log = logging.getLogger(__name__)


class Follower:
    """Follows the plans of a stream. `run` it."""

    def __init__(
        self,
        stream: Stream,
        exports: Exports,
        environ: Mapping[str, str],
        resource_of: Callable[[Desired], ResourceSettings],
    ) -> None:
        """`resource_of`: what every resource of a profile has."""
        self._stream, self._exports, self._environ, self._resource_of = stream, exports, environ, resource_of
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
        self._building: tuple[Wanted, Future[Built]] | None = None
        self._reports = Reports()
        self._next_report = self._retry_at = 0.0

    def trouble(self) -> str:
        """Why it does not do its work now; empty: it does."""
        if self.plan is None:
            return "no plan has come from the operator yet"
        if self.engine is None and any(each.profile for each in self._desired):
            return (
                "; ".join(sorted({each.message for each in self._troubles.values()})) or "the programs are being loaded"
            )
        return ""

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until `stopped` says so; then what is under way is sent."""
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
        plan = self._stream.plan
        if plan is not None and (plan is not self.plan or (self._retry_at and now >= self._retry_at)):
            self._follow(plan, now)
        if self.engine is not None:
            self.engine.step(0.002 if self.engine.processes.has_pending else IDLE_SECONDS)
            self._look(now)
        else:
            time.sleep(IDLE_SECONDS)
        if now >= self._next_report:
            self._report(now)

    # --- a plan -------------------------------------------------------------------------------------------------------

    def _follow(self, plan: NodePlan, now: float) -> None:
        with span("agent.plan", hash=plan.hash, profiles=len(plan.profiles), pods=len(plan.pods)):
            self.plan, self._retry_at = plan, 0.0
            self.unobserved.planned(plan)
            self._desired = desired_of(plan)
            self._reports.keep({each.uid for each in self._desired})
            self._troubles.clear()
            self._whom = None
            wanted = self._all_wanted()
            if not wanted.operations:
                if self.engine is not None:
                    self._end_engine()
            elif self.engine is not None and self.engine.session.can_see(wanted):
                if self.engine.session.lacks(wanted):
                    self._build(self.engine, wanted)
            else:
                self._open_engine(wanted, now)
            if self.engine is not None:
                self._fill(self.engine, now)
        _log.info(
            "plan.followed hash=%s profiles=%d pods=%d seconds=%s",
            plan.hash, len(plan.profiles), len(plan.pods), round(time.monotonic() - now, 3),
        )  # fmt: skip
        self._report(now)

    def _all_wanted(self) -> Wanted:
        return together([each.wanted for each in self._desired if each.profile is not None])

    def _open_engine(self, wanted: Wanted, now: float) -> None:
        if self.engine is not None:
            _log.warning("engine.replaced hint=%s", "nothing is seen between the two: another mechanism is called for")
            self._end_engine()
        try:
            with self._warm.pause():
                self.engine = Engine(wanted, self._environ, watch_exec=True)
        except KernelspanError as error:
            _log.error("engine.failed reason=%s message=%s hint=%s", error.reason, error, error.hint)
            self._fail([each.key for each in self._desired], error)
            self._retry_at = now + RETRY_SECONDS
            return
        self.engine.on_exec = self._on_exec

    def _build(self, engine: Engine, wanted: Wanted) -> None:
        """Compiles in another thread, for seconds; the loop attaches what comes of it."""
        if self._building is None:
            self._building = wanted, self._compiler.submit(self._build_more, engine, wanted)

    def _build_more(self, engine: Engine, wanted: Wanted) -> Built:
        with self._warm.pause():
            return engine.session.build_more(wanted, self._environ)

    def _finish_building(self, engine: Engine, now: float) -> None:
        if self._building is None or not self._building[1].done():
            return
        (built_for, future), self._building = self._building, None
        try:
            engine.session.extend(built_for, future.result())
        except KernelspanError as error:
            _log.error("engine.not_extended reason=%s message=%s", error.reason, error)
            self._fail([each.key for each in self._desired if each.key not in engine.profiles], error)
            self._retry_at = now + RETRY_SECONDS
            return
        wanted = self._all_wanted()
        if engine.session.lacks(wanted):  # another plan came meanwhile
            self._build(engine, wanted)
        self._fill(engine, now)

    def _fail(self, keys: list[str], error: KernelspanError) -> None:
        message = f"{error} {error.hint}".strip()
        self._troubles.update({key: Trouble(error.reason, message) for key in keys})

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
                self._fail([each.key], error)
            else:
                engine.add(each.key, each.profile, exporter, self._resource_of(each))
        here = [each for each in self._desired if each.key in engine.profiles]
        for key in set(engine.profiles) - {each.key for each in here} - set(self._leaving):
            self._leaving[key] = now + LINGER_SECONDS
        self._whom = Whom(self.plan, here, self.unobserved)
        self._whom.scan(engine, now)

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _on_exec(self, pid: int, when_ns: int) -> None:
        if self.engine is not None and self._whom is not None:
            self._whom.started(self.engine, pid, when_ns)

    def _look(self, now: float) -> None:
        engine = self.engine
        assert engine is not None
        self._finish_building(engine, now)
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
        self._next_report = now + REPORT_SECONDS
        self._stream.report(self._reports.states(self._desired, self.engine, self._whom, self._troubles, now))

    def _end_engine(self) -> None:
        engine, self.engine = self.engine, None
        assert engine is not None
        self._whom = self._building = None
        self._leaving.clear()
        try:
            engine.finish()
            for key in list(engine.profiles):
                self._remove(engine, key)
        finally:
            engine.close()
