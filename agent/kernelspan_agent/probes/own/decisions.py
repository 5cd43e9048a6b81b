# SPDX-License-Identifier: Apache-2.0
"""The conditions of one of the user's own probes, sorted by when they can be decided: before anything is read, after, at the
return, or in user space (resolve/judging.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kernelspan_agent.probes.own.conditions import Subject, has_capabilities, holds, in_namespaces
from kernelspan_agent.probes.own.sources import ArgumentError, Source
from kernelspan_agent.resolve.arguments import NUMBERS, Slot
from kernelspan_agent.resolve.judging import judged_argument
from kernelspan_api.conditions import ArgumentCondition, ArgumentType, NamespaceType, Operator
from kernelspan_api.userprobes import Argument, Match, UserProbe


class Decisions:
    """C expressions for a probe's match entries. Raises ArgumentError where something cannot be compared."""

    def __init__(
        self, probe: UserProbe, slots: Sequence[Slot], source: Source, host: Callable[[NamespaceType], int]
    ) -> None:
        """`source`: one that the probe begins at. `host`: the inode number of the host's namespace of a kind."""
        self._probe, self._slots, self._source, self._host = probe, slots, source, host
        if probe.error_when is not None:  # decided in user space, by the same rules
            holds(Subject(self._compared(), "result"), probe.error_when.operator, probe.error_when.values)

    def of_arguments(self, placed: Collection[int] = ()) -> tuple[list[str], list[str]]:
        """For each match entry what is decided before anything is read, and what after. Empty: it holds.

        `placed`: arguments that may be nowhere: p0, p1, … say so.
        """
        early, late = [], []
        for match in self._probe.match:
            first: list[str] = []
            second: list[str] = []
            for condition in match.args:
                if judged_argument(self._probe, condition) is not None:
                    continue
                subject = self._subject(condition, placed)
                (first if subject.type in NUMBERS else second).append(
                    holds(subject, condition.operator, condition.values)
                )
            first += [has_capabilities(each) for each in match.capabilities]
            first += [in_namespaces(each, self._host) for each in match.namespaces]
            early.append(" && ".join(first))
            late.append(" && ".join(second))
        return early, late

    def ends(self) -> list[Slot]:
        """Slots of texts that are compared by their ends, here in the kernel."""
        conditions = (condition for match in self._probe.match for condition in match.args)
        by_end = (each for each in conditions if each.operator in (Operator.SUFFIX, Operator.NOT_SUFFIX))
        subjects = (self._subject(each, ()) for each in by_end if judged_argument(self._probe, each) is None)
        return [each.slot for each in subjects if each.slot is not None]

    def _subject(self, condition: ArgumentCondition, placed: Collection[int]) -> Subject:
        for at, argument in enumerate(self._probe.args):
            if self._position(argument) == condition.index and condition.resolve in ("", argument.resolve):
                known = f"p{at}" if at in placed else ""
                return Subject(argument.type, f"a{at}", self._slots[at], known)
        what = f"argument {condition.index}{condition.resolve and ' ' + condition.resolve}"
        raise ArgumentError(f"match compares {what}, which args does not have: add it there with its type")

    def _position(self, argument: Argument) -> int:
        if argument.index is not None:
            return argument.index
        fields = getattr(self._source, "fields", ())
        return next((at for at, each in enumerate(fields) if each.name == argument.field), -1)

    @property
    def needs_result(self) -> bool:
        """Whether anything asks for the returned value."""
        conditions = any(match.returns for match in self._probe.match)
        return self._probe.returns is not None or self._probe.error_when is not None or conditions

    def _compared(self) -> ArgumentType:
        kind = self._probe.returns.type if self._probe.returns else ArgumentType.INT64
        return kind if kind in NUMBERS else ArgumentType.INT64

    def of_result(self, match: Match) -> str:
        """What an entry says of the returned value; empty: nothing."""
        kind = self._probe.returns.type if self._probe.returns else ArgumentType.INT64
        if kind not in NUMBERS and match.returns:
            raise ArgumentError(f"a returned {kind.value} cannot be compared in the kernel")
        subject = Subject(kind, "result")
        return " && ".join(holds(subject, each.operator, each.values) for each in match.returns)


def mask(conditions: Sequence[str]) -> str:
    """A u32 expression: a bit for each entry whose condition holds.

    Between two entries stands a zero of which the verifier knows nothing: it would else follow every combination of entries
    to the end of the program, and refuse eight of them as too large.
    """
    bits = [f"(({each or '1'}) ? {1 << at}U : 0)" for at, each in enumerate(conditions)]
    if len(bits) == 1:
        return bits[0]
    return (
        "({ u32 _all = 0; "
        + " ".join(f"_all += {bit} + KS_LOAD(config->nothing); KS_OPAQUE(_all);" for bit in bits)
        + " _all; })"
    )
