# SPDX-License-Identifier: Apache-2.0
"""Plans put together of bytes: what protobuf would make of the same pods and profiles, to the byte."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_api.control import MAX_PLAN_BYTES, REVISION
from kernelspan_api.control.control_pb2 import ExportSecret, MatchSet, NodePlan
from kernelspan_api.objects import Pod
from kernelspan_api.selection import STATIC_HASH, container_names, owner, selects_container
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.models.profiles import Profile
from kernelspan_operator.models.selected import LABELS, bare_id, selected
from kernelspan_operator.models.watched import WatchKey
from kernelspan_operator.models.wire import head
from kernelspan_operator.services import making
from kernelspan_operator.services.making import Batch
from kernelspan_operator.services.profiles import parse
from tests.unit.control_plane.cluster import cluster_profile, hash_of, profile

KEYS = [WatchKey("shop", "app=checkout"), WatchKey("shop", ""), WatchKey("", "")]
NODE_LABELS: dict[str, dict[str, str]] = {"n1": {"disk": "ssd"}, "n2": {}}
# Lengths on both sides of where one more byte says them: 128, 16,384 (and 2,097,152, in a test of its own).
TEXTS = st.one_of(st.text("aé\N{SNOWMAN}\0/-.", max_size=6), st.integers(100, 300).map("x".__mul__))
CONTAINERS = st.sampled_from(["web", "proxy", "init", "sidecar", "w" * 63])


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    """A pod as an API server might give it."""
    names = draw(st.lists(CONTAINERS, unique=True, max_size=5))
    told = [
        {
            "name": name,
            "containerID": draw(st.sampled_from(["", "containerd://" + "5f" * 32, "cri-o://a"])),
            "restartCount": draw(st.integers(0, 2**31 - 1)),
        }
        for name in draw(st.permutations(names))[: draw(st.integers(0, 5))]
    ]
    meta: dict[str, Any] = {
        "uid": draw(st.uuids()).hex,
        "name": draw(TEXTS),
        "namespace": draw(TEXTS),
        "labels": draw(st.dictionaries(st.sampled_from([*LABELS, "app", "pod-template-hash"]), TEXTS)),
    }
    if draw(st.booleans()):
        meta["annotations"] = {"kubernetes.io/config.mirror": "x", STATIC_HASH: draw(TEXTS)}
    if kind := draw(st.sampled_from(["", "ReplicaSet", "Job"])):
        owner = {"kind": kind, "name": draw(TEXTS), "uid": "o", "controller": True}
        meta["ownerReferences"] = [owner]
    cut = draw(st.integers(0, len(names)))
    containers = [{"name": name} for name in names]
    body = {
        "metadata": meta,
        "spec": {"nodeName": "n1", "initContainers": containers[:cut], "containers": containers[cut:]},
        "status": {"phase": "Running", "containerStatuses": told},
    }
    return msgspec.convert(body, Pod)


@st.composite
def profiles(draw: st.DrawFn) -> list[Profile]:
    """Some, each with another key."""
    found = []
    for name in draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6)):
        spec: dict[str, Any] = {}
        if draw(st.booleans()):
            spec["containerSelector"] = draw(st.sampled_from([{"include": ["w*"]}, {"exclude": ["web"]}, {}]))
        if draw(st.booleans()):
            spec["nodeSelector"] = {"disk": "ssd"}
        if draw(st.booleans()):
            spec["files"] = {"paths": ["/" + "x" * draw(st.integers(1, 200))]}
        body = cluster_profile(name, **spec) if draw(st.booleans()) else profile(name, **spec)
        body["metadata"]["generation"] = draw(st.integers(1, 2**40))
        one = parse(body, Policy())
        assert one.spec is not None, one.problem
        found.append(one)
    return found


SECRETS = st.dictionaries(
    st.sampled_from([f"uid-{name}" for name in "abcdefg"]),
    st.builds(
        lambda headers, ca: {"headers": headers, "ca": ca},
        st.dictionaries(TEXTS, TEXTS, max_size=4),
        st.binary(max_size=40),
    ),
)
SELECTED = st.lists(st.tuples(pods(), st.frozensets(st.sampled_from(KEYS), min_size=1)), max_size=6)
Selecting = dict[WatchKey, list[Profile]]


def secret_of(secrets: dict[str, Any], one: Profile) -> ExportSecret | None:
    """What a profile has of them."""
    return ExportSecret(profile_uid=one.uid, **secrets[one.uid]) if one.uid in secrets else None


def wanted(selecting: Selecting, keys: frozenset[WatchKey]) -> list[Profile]:
    """The profiles of some watches, in their order."""
    return sorted({one.key: one for key in keys for one in selecting[key]}.values(), key=lambda one: one.key)


def add_pod(plan: NodePlan, pod: Pod, here: list[Profile]) -> None:
    """A pod that these profiles select."""
    meta = pod.metadata
    found = plan.pods.add(uid=meta.uid, namespace=meta.namespace, name=meta.name)
    kind, name = owner(meta)
    if kind:
        found.workload.kind, found.workload.name = kind, name
    told = {one.name: one for one in pod.status.container_statuses or ()}
    for name in container_names(pod.spec):
        container = found.containers.add(name=name)
        if name in told:
            container.id, container.restart_count = bare_id(told[name].container_i_d), told[name].restart_count
    for label in LABELS:
        if label in (meta.labels or {}):
            found.labels[label] = (meta.labels or {})[label]
    found.static_hash = (meta.annotations or {}).get(STATIC_HASH, "")
    found.matches.extend(match(one, container_names(pod.spec)) for one in here)


def match(one: Profile, containers: list[str]) -> MatchSet:
    """What a profile selects of them."""
    assert one.spec is not None
    selector = one.spec.container_selector
    if selector is None or not (selector.include or selector.exclude):
        return MatchSet(profile_uid=one.uid, all_containers=True)
    return MatchSet(profile_uid=one.uid, containers=[name for name in containers if selects_container(selector, name)])


def expected(
    node: str, there: list[tuple[Pod, frozenset[WatchKey]]], selecting: Selecting, secrets: dict[str, Any]
) -> NodePlan:
    """The same plan, each field set as a message of protobuf."""
    plan = NodePlan(node=node, revision=REVISION)
    inside: dict[Any, Profile] = {}
    for pod, keys in there:
        here = [one for one in wanted(selecting, keys) if one.selects_node(NODE_LABELS[node])]
        inside |= {one.key: one for one in here}
        if here:
            add_pod(plan, pod, here)
    for key in sorted(inside):
        one = inside[key]
        plan.profiles.add(
            uid=one.uid, kind=key.kind, namespace=key.namespace, name=key.name,
            generation=one.generation, spec=one.document,
        )  # fmt: skip
    all_secrets = [secret_of(secrets, one) for one in sorted(inside.values(), key=lambda one: one.uid)]
    plan.secrets.extend(one for one in all_secrets if one is not None)
    return plan


@pytest.mark.hypothesis
@given(SELECTED, profiles(), SECRETS, st.randoms(use_true_random=False))
def test_a_plan_is_what_protobuf_would_make_of_it(
    there: list[tuple[Pod, frozenset[WatchKey]]], all_: list[Profile], secrets: dict[str, Any], dice: random.Random
) -> None:
    """Field for field and byte for byte, of two nodes from one batch; its hash is that of the message."""
    there = sorted({pod.metadata.uid: (pod, keys) for pod, keys in there}.values(), key=lambda one: one[0].metadata.uid)
    selecting: Selecting = {key: [one for one in all_ if dice.random() < 0.6] for key in KEYS}
    batch = Batch(lambda keys: wanted(selecting, keys), lambda one: secret_of(secrets, one))
    for node, labels in NODE_LABELS.items():
        plan = batch.plan(node, labels, [(selected(pod), keys) for pod, keys in there])
        read = NodePlan.FromString(plan.data)
        assert read.SerializeToString(deterministic=True) == plan.data
        assert (read.hash, read.hash) == (plan.hash, hash_of(read))
        assert plan.uids == {one.uid for one in read.profiles}
        assert bool(plan.uids) == bool(read.pods)
        assert not plan.left_out
        read.ClearField("hash")
        read.ClearField("operator_version")
        assert read == expected(node, there, selecting, secrets)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_the_length_of_a_field(length: int) -> None:
    """As protobuf writes it, in one to four bytes."""
    whole = ExportSecret(ca=b"x" * length, profile_uid="") if length else ExportSecret()
    written = NodePlan(secrets=[whole]).SerializeToString()
    assert written == head(7, whole.ByteSize()) + whole.SerializeToString()


def test_a_plan_has_room_for_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for one byte more: the newest profile goes, and its name is told."""
    all_ = [parse(profile(name), Policy()) for name in "ab"]
    all_[1] = msgspec.structs.replace(all_[1], created=all_[0].created.replace(year=2027))
    body = {"metadata": {"uid": "u"}, "spec": {"nodeName": "n1", "containers": [{"name": "web"}]}}
    there = [(selected(msgspec.convert(body, Pod)), frozenset(KEYS))]

    def plan() -> making.Plan:
        return Batch(lambda _keys: all_, lambda _one: None).plan("n1", {}, there)

    whole = plan()
    assert len(whole.data) < MAX_PLAN_BYTES
    monkeypatch.setattr(making, "MAX_PLAN_BYTES", len(whole.data))
    assert plan() == whole
    monkeypatch.setattr(making, "MAX_PLAN_BYTES", len(whole.data) - 1)
    monkeypatch.setattr(making, "MAX_PROFILES_BYTES", sum(len(one.document) for one in all_))
    less = plan()
    assert (less.uids, less.left_out) == ({"uid-a"}, {"uid-b"})
    (match,) = NodePlan.FromString(less.data).pods[0].matches
    assert match.profile_uid == "uid-a"
