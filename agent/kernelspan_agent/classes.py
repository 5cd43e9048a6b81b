# SPDX-License-Identifier: Apache-2.0
"""Match classes: sets of profiles that want a process, by the number that the kernel knows each by.

A number means one set for as long as an operation may bear it; it is given away again when the numbers have run out and
nothing of its class is on the way any more. What was counted for a set before is kept with each of its profiles.
"""

from __future__ import annotations

import time
from collections import Counter as Sums
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.accounting import Accounting, UserCounts, balance, unfinished
from kernelspan_agent.errors import BudgetError
from kernelspan_agent.probes.constants import MAX_CLASSES, Counter
from kernelspan_api.plan import Wanted, together

if TYPE_CHECKING:
    from kernelspan_agent.intake import Intake
    from kernelspan_agent.probes.session import Session
    from kernelspan_agent.profile_run import ProfileRun
    from kernelspan_agent.resolve.tables import Tables

NOBODY = 0  # the class of processes that nobody wants any more
MAX_REJECTED = 16384
LOOK_SECONDS = 0.2


@dataclass(slots=True)
class _Counts:
    """What happened to the operations of some classes up to some moment."""

    kernel: Sums[Counter] = field(default_factory=Sums)
    received: int = 0
    dropped: Sums[str] = field(default_factory=Sums)

    def add(self, other: _Counts, sign: int = 1) -> None:
        for key, value in other.kernel.items():
            self.kernel[key] += sign * value
        self.received += sign * other.received
        for reason, value in other.dropped.items():
            self.dropped[reason] += sign * value


@dataclass(slots=True)
class _Class:
    uids: frozenset[str]  # those that there are still
    parts: dict[str, Wanted]  # what each of those it began with wants
    before: _Counts  # what the number had counted when the class began
    retired: bool = False
    keep: float = 1.0  # of the operations of the built-in groups, the share that the kernel does not throw away
    off: frozenset[str] = frozenset()  # those for whom it sees none of them
    none: frozenset[str] = frozenset()  # those for whom it sees nothing at all


class Classes:
    """The classes of one session. Not for several threads."""

    def __init__(self, session: Session, intake: Intake, tables: Tables) -> None:
        self._session, self._intake, self._tables = session, intake, tables
        self._classes: dict[int, _Class] = {}
        self._numbers: dict[frozenset[str], int] = {}
        self._past: dict[str, _Counts] = {}  # of numbers that were given away, by profile
        self._masks: dict[str, np.ndarray] = {}
        self._rejected: OrderedDict[tuple[int, int, int], set[str]] = OrderedDict()
        self._shares: Mapping[str, float] = {}
        self._detached: frozenset[str] = frozenset()
        self._spare: list[int] = []  # numbers that mean nothing any more
        self._next_look = 0.0

    def known(self, uids: frozenset[str]) -> int | None:
        """The class of a set of profiles; None: it must be made."""
        return self._numbers.get(uids) if uids else NOBODY

    def make(self, uids: frozenset[str], wanted: Sequence[Wanted]) -> int:
        """A new class, of a set of profiles and what they want. Raises BudgetError: too many."""
        number = self._free()
        one = _Class(uids, dict(zip(sorted(uids), wanted, strict=True)), self._counted(number))
        self._limit(number, one, anew=True)
        self._numbers[uids] = number
        self._classes[number] = one
        self._masks.clear()
        return number

    def uids(self, number: int) -> frozenset[str]:
        """The profiles of a class that are there still."""
        one = self._classes.get(number)
        return one.uids if one is not None else frozenset()

    # --- the guard ----------------------------------------------------------------------------------------------------

    def limit(self, shares: Mapping[str, float], detached: frozenset[str]) -> None:
        """What the guard allows from now on: the share of each profile's operations of the built-in groups that is not
        thrown away (none for 0; all where it is not named), and those that see nothing at all.
        """
        self._shares, self._detached = dict(shares), detached
        for number, one in list(self._classes.items()):
            self._limit(number, one)

    def _limit(self, number: int, one: _Class, *, anew: bool = False) -> None:
        """The kernel keeps as much as one of a class's profiles may have; what is beyond another's share is thinned later."""
        shares = {uid: self._shares.get(uid, 1.0) for uid in one.parts if not one.uids or uid in one.uids}
        off = frozenset(uid for uid, share in shares.items() if not share)
        none = frozenset(shares) & self._detached
        keep = max(
            (share for uid, share in shares.items() if uid not in none and one.parts[uid].operations), default=1.0
        )
        if anew or (keep, off, none) != (one.keep, one.off, one.none):
            one.keep, one.off, one.none = keep, off, none
            self._session.set_class(number, self._wanted(one), keep=keep or 1.0, anew=anew)

    @staticmethod
    def _wanted(one: _Class) -> Wanted:
        parts = [
            replace(part, operations=frozenset()) if uid in one.off else part
            for uid, part in one.parts.items()
            if uid not in one.none
        ]
        return together(parts)

    def kept(self) -> np.ndarray:
        """Of each number, the share of its operations that the kernel does not throw away: shape (MAX_CLASSES,)."""
        found = np.ones(MAX_CLASSES)
        for number, one in list(self._classes.items()):
            found[number] = one.keep
        return found

    def sharers(self) -> dict[int, frozenset[str]]:
        """The classes that operations may bear, each with its profiles."""
        return {number: one.uids for number, one in list(self._classes.items()) if one.uids}

    def _free(self) -> int:
        number = len(self._classes) + 1
        if number < MAX_CLASSES:
            return number
        if not self._spare and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._clear()
        if self._spare:
            return self._spare.pop()
        raise BudgetError(
            f"more than {MAX_CLASSES - 1} different sets of profiles select processes on this node",
            hint="let fewer profiles overlap",
        )

    def _clear(self) -> None:
        """Looks for numbers that can mean another set: of no process, and with nothing on the way."""
        retired = [number for number, one in self._classes.items() if one.retired]
        if not retired:
            return
        in_use = self._session.procs.classes()
        for number in set(retired) - in_use:
            counted, one = self._counted(number), self._classes[number]
            if (
                unfinished(counted.kernel) != self._session.own.cut_off[number]
                or counted.kernel[Counter.SENT] != counted.received
                or self._intake.counts()[1][number]  # in this order: what waited before may have been received since
            ):
                continue
            counted.add(one.before, -1)
            for uid in one.uids:
                self._past.setdefault(uid, _Counts()).add(counted)
            one.uids = frozenset()
            self._spare.append(number)
        if self._spare:  # what its profiles did not want is not what the next ones do not
            self._masks.clear()
            self._session.forget_verdicts()
            spare = set(self._spare)
            for key in [key for key in self._rejected if key[0] in spare]:
                del self._rejected[key]

    def cease(self) -> None:
        """No operation begins any more, whoever wants whom; those under way end as they would."""
        for number, one in self._classes.items():
            self._session.set_class(number, replace(self._wanted(one), operations=frozenset(), probes=()), anew=False)

    def retire(self, uid: str) -> None:
        """The profile is no more: no process is to be of its classes."""
        for one in list(self._classes.values()):
            if uid in one.uids:
                if not one.retired:
                    one.retired = True
                    self._numbers.pop(one.uids, None)
                one.uids -= {uid}
        self._next_look = 0.0
        self._masks.pop(uid, None)
        self._past.pop(uid, None)

    def is_shared(self, uid: str) -> bool:
        """Whether the kernel's filters and limits are wider than this profile's: it has others beside it, or two classes."""
        mine = [one for one in list(self._classes.values()) if uid in one.uids]
        return len(mine) > 1 or any(len(one.uids) > 1 for one in mine)

    def mask(self, uid: str) -> np.ndarray:
        """Which numbers are classes of the profile: bool, shape (MAX_CLASSES,)."""
        found = self._masks.get(uid)
        if found is None:
            found = np.zeros(MAX_CLASSES, bool)
            found[[number for number, one in list(self._classes.items()) if uid in one.uids]] = True
            self._masks[uid] = found
        return found

    def reject(self, uid: str, file: int, path: int) -> None:
        """The profile wants no operation on this file: the kernel is told where no profile of a class does."""
        for number, one in list(self._classes.items()):
            if uid not in one.uids or one.retired:
                continue
            if len(one.uids) > 1:
                said = self._rejected.setdefault((number, file, path), set())
                said.add(uid)
                if len(self._rejected) > MAX_REJECTED:
                    self._rejected.popitem(last=False)
                if said != one.uids:
                    continue
            self._session.reject_file(file, path, number)

    # --- accounting ---------------------------------------------------------------------------------------------------

    def _counted(self, number: int, drained: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None) -> _Counts:
        """Of one number so far. `drained`: what the intake counts, where it is known."""
        received, _, queue_full = drained or self._intake.counts()
        dropped = Sums({"QueueFull": int(queue_full[number]), "ProbeRemoved": self._session.own.cut_off[number]})
        for reason, by_class in self._tables.dropped.items():
            dropped[reason] = by_class[number]
        return _Counts(Sums(self._session.counts(number)), int(received[number]), dropped)

    def accounting(self, run: ProfileRun, in_flight: Mapping[int, int] | None = None) -> Accounting:
        """A profile's balance. What is in flight in the kernel is counted there, one by one."""
        total = _Counts()
        total.add(self._past.get(run.uid, _Counts()))
        mine = [number for number, one in list(self._classes.items()) if run.uid in one.uids]
        drained = self._intake.counts()
        for number in mine:
            total.add(self._counted(number, drained))
            total.add(self._classes[number].before, -1)
        if in_flight is None:
            in_flight = self._session.in_flight()
        exported = run.exporter.counters.snapshot()
        waiting, hold = int(drained[1][mine].sum()), run.hold
        user = UserCounts(
            received=total.received,
            filtered=run.resolver.filtered,
            sampled_out=run.tracer.counters.operations_sampled_out + (hold.sampled_out if hold else 0),
            rate_limited=run.rate_limited,
            exported=exported.operations_exported,
            waiting=waiting + exported.operations_in_flight + (hold.operations if hold else 0),
            dropped=dict(total.dropped + run.dropped()),
        )
        return balance(total.kernel, sum(in_flight.get(number, 0) for number in mine), user)
