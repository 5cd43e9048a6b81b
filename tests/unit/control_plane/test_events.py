# SPDX-License-Identifier: Apache-2.0
"""Which turns of a status are told of as events, and in what words."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from kernelspan_api.reasons import Reason
from kernelspan_api.status import Condition, ConditionStatus, Status
from kernelspan_operator.errors import ApiError
from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.services import events as events_module
from kernelspan_operator.services.events import AGAIN_SECONDS, MAX_NOTE, Events

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class Kube:
    """Takes what is made, or refuses all."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.refuses = False

    async def request(self, _verb: str, _method: str, path: str, *, body: dict[str, Any]) -> bytes:
        if self.refuses:
            raise ApiError(403, path)
        self.made.append(body)
        return b""


class Case:
    """One profile and the clock."""

    def __init__(self, name: str = "p", namespace: str = "shop") -> None:
        self.kube, self.seconds = Kube(), 1_000.0
        self.events = Events(self.kube, lambda: self.seconds)  # type: ignore[arg-type]
        kind = "TraceProfile" if namespace else "ClusterTraceProfile"
        self.profile = Profile(ProfileKey(kind, namespace, name), "u", 1, datetime.now(UTC), None)
        self.status: Status | None = None

    def turn(self, status: ConditionStatus, reason: str, message: str = "") -> list[str]:
        """The reasons that have been told of after Ready has come to stand so."""
        ready = Condition(type="Ready", status=status, last_transition_time="", reason=reason, message=message)
        before, self.status = self.status, Status(conditions=(ready,))
        asyncio.run(self.events.tell(self.profile, before, self.status))
        return [one["reason"] for one in self.kube.made]


def test_what_is_not_known_is_no_turn() -> None:
    """Neither to it nor back to what was before it; what is something else after it is one."""
    case = Case()
    assert case.turn(_UNKNOWN, "Ready") == []
    assert case.turn(_TRUE, "Ready") == ["Ready"]
    assert case.turn(_UNKNOWN, "Ready") == ["Ready"]
    assert case.turn(_TRUE, "Ready") == ["Ready"]
    case.turn(_UNKNOWN, "Ready")
    assert case.turn(_FALSE, "BinaryNotFound") == ["Ready", "BinaryNotFound"]


def test_what_the_object_says_itself_is_known() -> None:
    """A new operator says nothing of what the one before it said, also where it does not know at first."""
    case = Case()
    case.turn(_FALSE, "NoMatchingPods")
    case.events = Events(case.kube, lambda: case.seconds)  # type: ignore[arg-type]
    assert case.turn(_UNKNOWN, "Ready") == ["NoMatchingPods"]
    assert case.turn(_FALSE, "NoMatchingPods") == ["NoMatchingPods"]
    assert case.turn(_TRUE, "Ready") == ["NoMatchingPods", "Ready"]


def test_to_and_fro_is_told_again_after_a_while() -> None:
    """Once for each reason until then."""
    case = Case()
    for _ in range(50):
        case.turn(_TRUE, "Ready")
        found = case.turn(_FALSE, "CollectorUnreachable")
    assert found == ["Ready", "CollectorUnreachable"]
    assert case.events.made == {"Written": 2, "Repeated": 98}
    case.seconds += AGAIN_SECONDS
    assert case.turn(_TRUE, "Ready") == ["Ready", "CollectorUnreachable", "Ready"]


def test_one_that_is_refused_stops_nothing() -> None:
    """And is counted."""
    case = Case()
    case.kube.refuses = True
    assert case.turn(_FALSE, "NoMatchingPods") == []
    case.kube.refuses = False
    assert case.turn(_TRUE, "Ready") == ["Ready"]
    assert case.events.made == {"Failed": 1, "Written": 1}


def test_a_note_keeps_what_to_do() -> None:
    """Of a message that is too long its end is cut off, not the remedy; one that has it is left as it is."""
    case = Case()
    case.turn(_FALSE, "SymbolNotFound", "m" * MAX_NOTE)
    note = case.kube.made[0]["note"]
    assert len(note) == MAX_NOTE
    assert note.endswith(f"m {Reason.SYMBOL_NOT_FOUND.remedy}")
    case.turn(_FALSE, "Paused", Reason.PAUSED.remedy)
    assert case.kube.made[1]["note"] == Reason.PAUSED.remedy
    assert (case.kube.made[0]["type"], case.kube.made[1]["type"]) == ("Warning", "Normal")
    case.turn(_FALSE, "ReasonOfTheFuture", "x")
    assert case.kube.made[2]["note"] == "x"


def test_where_an_event_is() -> None:
    """In the object's namespace; what is in none has them in `default`; a long name leaves room for the event's own."""
    case = Case(name=".".join(["a" * 59] * 4) + ".b" * 6, namespace="")
    case.turn(_FALSE, "Paused")
    (made,) = case.kube.made
    assert made["metadata"]["namespace"] == "default"
    assert "namespace" not in made["regarding"]
    assert len(made["metadata"]["name"]) <= 253
    assert ".." not in made["metadata"]["name"]


def test_what_is_known_is_bounded(monkeypatch: Any) -> None:
    """Profiles that come and go without end leave nothing."""
    monkeypatch.setattr(events_module, "MAX_KNOWN", 10)
    case = Case()
    for number in range(100):
        profile = Profile(case.profile.key, f"u{number}", 1, case.profile.created, None)
        ready = Condition(type="Ready", status=_TRUE, last_transition_time="", reason="Ready", message="")
        asyncio.run(case.events.tell(profile, None, Status(conditions=(ready,))))
    assert len(case.events._stands) == len(case.events._said) == 10
    assert len(case.kube.made) == 100
