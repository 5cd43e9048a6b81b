# SPDX-License-Identifier: Apache-2.0
"""Which profiles exist: kopf and our own watch are never at the same point, and whatever either missed adds up."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from kernelspan_api.objects import Meta, Metadata
from kernelspan_operator.services.existing import Existing
from kernelspan_operator.services.watch import Collection, Delete, Synced, Upsert


class OwnWatch:
    """One path's watch, which hears of what the server holds when it is told to."""

    def __init__(self, tell: Callable[[Any], object], listing: Callable[[], object]) -> None:
        self._tell, self._begin = tell, listing
        self._told: set[str] = set()
        self._held: set[str] | None = None

    def list_begins(self, held: set[str]) -> None:
        self._begin()
        self._held = set(held)

    def list_ends(self) -> None:
        if self._held is None:
            return
        for uid in sorted(self._held - self._told):
            self._tell(Upsert(Metadata(metadata=Meta(uid=uid))))
        for uid in sorted(self._told - self._held):
            self._tell(Delete(uid))
        self._told, self._held = self._held, None
        self._tell(Synced())


class Case:
    def __init__(self) -> None:
        self.watches: list[OwnWatch] = []
        self.gone: list[str] = []
        self.existing = Existing(self._open, self.gone.append)
        self.existing.start()

    def _open(
        self, _: Collection[Any], tell: Callable[[Any], object], *__: Any, listing: Callable[[], object], **___: Any
    ) -> Callable[[], object]:
        self.watches.append(OwnWatch(tell, listing))
        return lambda: None

    def lists(self, *held: set[str]) -> None:
        for watch, there in zip(self.watches, held, strict=True):
            watch.list_begins(there)
            watch.list_ends()


def test_deleted_before_our_watch_had_heard_of_it() -> None:
    """kopf has seen it, the connection broke, it is in no list any more."""
    case = Case()
    case.lists(set(), set())
    assert case.existing.see("a", namespaced=True)
    assert case.existing.see("everywhere", namespaced=False)
    case.lists(set(), {"everywhere"})
    assert case.gone == ["a"]
    assert not case.existing.see("a", namespaced=True)
    assert case.existing.is_synced()


def test_what_kopf_sees_while_a_list_is_on_its_way_is_not_taken_for_deleted() -> None:
    """It may have been made after the list was."""
    case = Case()
    case.watches[0].list_begins(set())
    assert case.existing.see("a", namespaced=True)
    case.watches[0].list_ends()
    assert case.gone == []
    case.lists({"a"}, set())
    assert case.gone == []
    assert case.existing.is_synced()


@pytest.mark.parametrize("seed", range(20))
def test_in_the_end_it_is_what_the_server_holds(seed: int) -> None:
    """Whatever either hears of, and when; and nothing that is there is ever said to be gone."""
    dice, case, held = random.Random(seed), Case(), (set[str](), set[str]())
    for step in range(300):
        kind = dice.randrange(2)
        match dice.randrange(5):
            case 0:
                held[kind].add(f"{kind}-{step}")
            case 1 if held[kind]:
                held[kind].discard(dice.choice(sorted(held[kind])))
            case 2 if held[kind]:  # kopf tells of what is there, and never of a deletion
                case.existing.see(dice.choice(sorted(held[kind])), namespaced=kind == 0)
            case 3:
                case.watches[kind].list_begins(held[kind])
            case 4:
                case.watches[kind].list_ends()
        assert not set(case.gone) & (held[0] | held[1])
    case.lists(*held)
    for kind in (0, 1):
        for uid in sorted(held[kind]):
            assert case.existing.see(uid, namespaced=kind == 0)
    assert case.existing.is_synced()
    assert case.existing._seen["/apis/kernelspan.io/v1alpha1/traceprofiles"] == held[0]
    assert case.existing._seen["/apis/kernelspan.io/v1alpha1/clustertraceprofiles"] == held[1]
