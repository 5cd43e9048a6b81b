# SPDX-License-Identifier: Apache-2.0
"""Selected pods by themselves: what is counted as it comes in is what counting anew would give."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kernelspan_api.objects import Pod
from kernelspan_operator.models.profiles import ProfileKey
from kernelspan_operator.models.watched import WatchKey
from kernelspan_operator.services.pods import Pods
from kernelspan_operator.services.watch import Collection, Delete, Upsert
from tests.unit.control_plane.cluster import pod

KEYS = [WatchKey("shop", "app=a"), WatchKey("shop", ""), WatchKey("", "")]
PROFILES = [ProfileKey("TraceProfile", "shop", name) for name in "abcd"]


@pytest.mark.parametrize("seed", range(20))
def test_the_nodes_of_a_profile_are_those_of_its_pods(seed: int) -> None:
    """Whatever comes, in whatever order: pods that appear, move, end and go, by several watches; profiles that change."""
    dice = random.Random(seed)
    tell: dict[str, Callable[[Any], object]] = {}

    def open_watch(
        collection: Collection[Any], told: Callable[[Any], object], *_: Any, **__: Any
    ) -> Callable[[], object]:
        tell[collection.path + collection.label_selector] = told
        return lambda: None

    touched: set[str] = set()
    pods = Pods(open_watch, touched.update, lambda _keys: None)
    for step in range(300):
        if dice.random() < 0.1:
            pods.assign(dice.choice(PROFILES), dice.sample(KEYS, dice.randint(0, 2)))
        elif dice.random() < 0.05:
            pods.release(dice.choice(PROFILES))
        elif tell:
            told, name = dice.choice(sorted(tell)), f"p{dice.randint(0, 5)}"
            phase = dice.choice(("Running", "Running", "Running", "Succeeded"))
            body = pod(name, dice.choice(("", "n1", "n2", "n3")), status={"phase": phase})
            body["metadata"]["resourceVersion"] = str(step - dice.randint(0, 3))
            gone = dice.random() < 0.3
            tell[told](Delete(f"uid-{name}") if gone else Upsert(msgspec.convert(body, Pod)))
        for key in PROFILES:
            assert pods.nodes_of(key) == {pods._pods[uid].node for uid in pods.uids_of(key)} - {""}
