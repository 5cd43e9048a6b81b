# SPDX-License-Identifier: Apache-2.0
"""The guard: keeps each profile of an engine within its limits.cpuMillicores.

    sample (cost) -> whose cost (costs) -> shares (control) -> the kernel throws away, probes are taken off and put back

What the kernel lets through for one profile and another of the same processes may not have is thinned in user space, so
what a profile is told of is its own share in any case. A profile that is detached wants nothing until it is another one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.guard.control import Control, Load, Phase
from kernelspan_agent.guard.cost import REST_SECONDS, CostSampler, Run, Sample
from kernelspan_agent.guard.costs import Counted, Groups, among
from kernelspan_agent.guard.measured import (
    ASSUMED,
    OPERATIONS,
    Classes,
    Profile,
    Told,
    Traps,
    UserSpace,
    own_load,
    part_of,
)
from kernelspan_agent.probes.constants import Counter
from kernelspan_agent.ring.records import MAX_OWN_PROBES, OWN_OPERATION
from kernelspan_api.handling import OnExceed

if TYPE_CHECKING:
    from kernelspan_agent.probes.attach import Attachment
    from kernelspan_agent.probes.own.probe import OwnProbe
    from kernelspan_agent.probes.session import Session
    from kernelspan_agent.resolve.tables import Taken

BUSY_REST_SECONDS = 0.1  # between samples while a profile is near its limit or beyond it
NEAR = 0.25  # of a limit
SAID_AGAIN_SECONDS = 10.0  # between two words in the log about a share that goes up and down
_COUNTERS = (Counter.SEEN, Counter.THROTTLED, Counter.OWN_SEEN, Counter.OWN_THROTTLED)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Profile:
    run: Profile
    control: Control
    user: UserSpace
    said: dict[str, tuple[float, float]] = field(default_factory=dict)  # the shares that were logged, and when
    said_phase: Phase = Phase.FREE

    def share(self, part: str) -> float:
        """Of a part's hits, what is not thrown away for this profile."""
        return self.control.shares.get(part, 0.0 if self.control.phase is Phase.DETACHED else 1.0)


class Guard:
    """Of one engine; for the thread that steps it, but for `told`. `close` it."""

    def __init__(self, session: Session, classes: Classes, now: float) -> None:
        self._session, self._classes = session, classes
        self._profiles: dict[str, _Profile] = {}
        self._groups = Groups()
        self._before: dict[int, list[int]] = {}
        self._wants: dict[
            int, dict[str, str]
        ] = {}  # by the number of an own probe: profiles, and what part of each it is
        self._thinned: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="guard")  # detaching takes the kernel a while
        self._closing: dict[int, Future[None]] = {}  # by the number of the probe
        self._traps: Future[Traps] | None = None
        self._blind = self._closed = False
        self.nobodys_millicores = 0.0
        self.cost = CostSampler(session, now, self._begin, self._take)

    # --- whose limits -------------------------------------------------------------------------------------------------

    def add(self, run: Profile) -> None:
        """A profile's limit holds from now on."""
        limits = run.profile.spec.limits
        control = Control(float(limits.cpu_millicores), detaches=limits.on_exceed is OnExceed.DETACH)
        self._profiles[run.uid] = _Profile(run, control, UserSpace(run))
        for spec in run.wanted.probes:
            own = self._session.own.get(spec)
            if own is not None:
                self._wants.setdefault(own.number, {})[run.uid] = part_of(spec.name)
                self._apply_own(own)  # it may be off for another's sake

    def remove(self, uid: str) -> None:
        """It is there no more."""
        self._profiles.pop(uid, None)
        self._thinned.pop(uid, None)
        for wants in self._wants.values():
            wants.pop(uid, None)

    def told(self, uid: str) -> Told | None:
        """How a profile stands; None: it is not known. From any thread."""
        one = self._profiles.get(uid)
        if one is None:
            return None
        control = one.control
        return Told(control.limit, control.used, control.spent_seconds, control.exceeded, control.phase, control.shares)

    # --- samples ------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Samples where it is time to, and does what follows. Nothing once it is closed."""
        if self._closed:
            return
        self.cost.tick(now)
        done = {number for number, closing in self._closing.items() if closing.done()}
        if not done:
            return
        for number in done:
            del self._closing[number]
        for own in self._session.own:
            if own.number in done:
                self._apply_own(own)

    def _begin(self) -> None:
        self._before = {number: self._session.count(number, *_COUNTERS) for number in self._classes.sharers()}

    def _take(self, sample: Sample) -> None:
        sharers = self._classes.sharers()
        counted = {
            number: [now - then for now, then in zip(self._session.count(number, *_COUNTERS), before, strict=True)]
            for number, before in self._before.items()
            if number in sharers
        }
        loads: dict[str, dict[str, Load]] = {uid: {} for uid in self._profiles}
        self._blind = not sample.programs
        self._add_own(loads, sample, counted)
        self._add_groups(loads, sample, counted, sharers)
        for uid, one in self._profiles.items():
            found = one.user.shared_out(loads[uid], sample.elapsed)
            one.control.sample(found, sample.now, sample.elapsed)
            self._say(one, sample.now)
        near = (one.control.phase is Phase.THROTTLED or one.control.last > NEAR * one.control.limit
                for one in self._profiles.values())  # fmt: skip
        self.cost.rest_seconds = BUSY_REST_SECONDS if any(near) else REST_SECONDS
        self._apply()

    def _add_groups(
        self,
        loads: Mapping[str, dict[str, Load]],
        sample: Sample,
        counted: Mapping[int, list[int]],
        sharers: Mapping[int, frozenset[str]],
    ) -> None:
        own = {name for probe in self._session.own for each in probe.programs() for name in each}
        mine = [run for name, run in sample.programs.items() if name not in own]
        classes = {
            number: Counted(seen - of_own - thrown_of_own, thrown)
            for number, (seen, thrown, of_own, thrown_of_own) in counted.items()
        }
        split = self._groups.assumed(classes) if self._blind else self._groups.split(
            sum(run.time_ns for run in mine), sum(run.count for run in mine), classes
        )  # fmt: skip
        self.nobodys_millicores = split[1] / sample.seconds / 1e6
        for number, load in split[0].items():
            wanting = {
                uid: self._profiles[uid].share(OPERATIONS)
                for uid in sharers[number]
                if uid in self._profiles and self._profiles[uid].run.wanted.operations
            }
            _add(loads, dict.fromkeys(wanting, OPERATIONS), load, wanting, sample.seconds)
        for uid, one in self._profiles.items():
            if one.run.wanted.operations:
                loads[uid].setdefault(OPERATIONS, Load(0.0))

    def _add_own(self, loads: Mapping[str, dict[str, Load]], sample: Sample, counted: Mapping[int, list[int]]) -> None:
        hits = [sum(each[2] for each in counted.values()), sum(each[3] for each in counted.values())]
        attached = [own for own in self._session.own if own.is_attached]
        for own in attached:
            if self._traps is None and own.spec.file is not None:
                self._traps = self._worker.submit(_measured)
            traps = self._traps.result() if self._traps is not None and self._traps.done() else ASSUMED
            runs = sample.programs
            if self._blind:  # calls of all own probes are one number: taken as spread evenly
                runs = {name: Run(0, sum(hits) // len(attached)) for each in own.programs() for name in each}
            wants = self._wants.get(own.number, {})
            _add(loads, wants, own_load(own, runs, traps), self._wanting(own), sample.seconds)

    def _wanting(self, own: OwnProbe) -> dict[str, float]:
        """The profiles that want a probe, each with its share."""
        wants = self._wants.get(own.number, {})
        return {uid: self._profiles[uid].share(part) for uid, part in wants.items()}

    # --- what follows -------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        shares = {uid: share for uid, one in self._profiles.items() if (share := one.share(OPERATIONS)) < 1.0}
        detached = frozenset(uid for uid, one in self._profiles.items() if one.control.phase is Phase.DETACHED)
        self._classes.limit(shares, detached)
        for own in self._session.own:
            self._apply_own(own)
        self._thinned = {uid: thin for uid, one in self._profiles.items() if (thin := self._thin(one)) is not None}

    def _apply_own(self, own: OwnProbe) -> None:
        wanting = self._wanting(own)
        if not wanting or own.number in self._closing:
            return
        keep = max(wanting.values())
        if not keep:
            if not own.off:
                self._closing[own.number] = self._worker.submit(_close, self._session.own.take_off(own))
            return
        if keep != own.keep:
            own.keep = keep
            self._session.own.configure(own)
        if own.off:
            self._session.own.put_back(own)

    def _thin(self, one: _Profile) -> tuple[np.ndarray, np.ndarray] | None:
        """Of what the kernel lets through, the share that is this profile's: by class, and by own probe."""
        if all(share >= 1.0 for share in one.control.shares.values()) and one.control.phase is not Phase.DETACHED:
            return None
        kept = self._classes.kept()
        classes = np.minimum(one.share(OPERATIONS) / np.where(kept > 0, kept, 1.0), 1.0)
        probes = np.ones(MAX_OWN_PROBES)
        for own in self._session.own:
            part = self._wants.get(own.number, {}).get(one.run.uid)
            if part is not None:
                probes[own.number] = min(one.share(part) / own.keep, 1.0)
        return classes, probes

    def thin(self, uid: str, taken: Taken, random: np.random.Generator) -> Taken:
        """What of a profile's operations it may have."""
        shares = self._thinned.get(uid)
        if shares is None:
            return taken
        ops = taken.ops
        of_own = ops["op"] >= OWN_OPERATION
        number = np.where(of_own, ops["op"] - OWN_OPERATION, 0)
        share = np.where(of_own, shares[1][number], shares[0][ops["cls"]])
        return taken if (share >= 1.0).all() else taken.of(random.random(len(ops)) < share)

    def _say(self, one: _Profile, now: float) -> None:
        control, label = one.control, one.run.label
        if control.phase is not one.said_phase:
            one.said_phase = control.phase
            write = _log.info if control.phase is Phase.FREE else _log.warning
            write(
                f"guard.{control.phase.value.lower()} profile=%s millicores=%d limit=%d",
                label, round(control.last), round(control.limit),
            )  # fmt: skip
        for part, share in control.shares.items():
            before, when = one.said.get(part, (1.0, 0.0))
            if share == before or (share and before and now - when < SAID_AGAIN_SECONDS):
                continue
            one.said[part] = share, now
            _log.info("guard.share profile=%s part=%s kept=%s", label, part, round(share, 4))

    def close(self) -> None:
        """Ends; what was taken off stays so."""
        self._closed = True
        self.cost.close()
        self._worker.shutdown()


def _measured() -> Traps:
    from kernelspan_agent.guard.traps import measure  # noqa: PLC0415 - with what attaches user probes 0.5 MB resident

    return measure()


def _close(attachments: list[Attachment]) -> None:
    for each in attachments:
        each.close()


def _add(
    loads: Mapping[str, dict[str, Load]],
    parts: Mapping[str, str],
    ns: Load,
    wanting: Mapping[str, float],
    seconds: float,
) -> None:
    """Adds a cost of so many nanoseconds to those who want it, to the part that it is of each; one that is off costs nothing."""
    for uid, load in among(ns, wanting).items():
        before = loads[uid].get(parts[uid], Load(0.0))
        scale = 1 / seconds / 1e6  # millicores
        loads[uid][parts[uid]] = Load(before.total + load.total * scale, before.fixed + load.fixed * scale)
    for uid in wanting:
        loads[uid].setdefault(parts[uid], Load(0.0))
