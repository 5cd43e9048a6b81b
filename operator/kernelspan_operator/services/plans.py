# SPDX-License-Identifier: Apache-2.0
"""What each node must do: a NodePlan made of the profiles and pods as they are, and its hash.

A plan is made when it is asked for and not kept, only its hash is: 5,000 plans would weigh more than all they are made
of. A change touches nodes; 50 ms after the first touch the hashes of the touched nodes are made anew, a few nodes at a
time, and who listens is told of those that differ and may `take` the plan that was made for it. Until `open` nothing is told: a plan of half the profiles would stop the others' tracing.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib import metadata

import msgspec

from kernelspan_api.control import MAX_PLAN_BYTES, REVISION, control_pb2
from kernelspan_api.selectors import ContainerSelector
from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.models.selected import SelectedPod
from kernelspan_operator.models.spans import Spans, no_spans

from .nodes import Nodes
from .pods import Pods
from .profiles import Profiles
from .secrets import Secrets

DEBOUNCE_SECONDS = 0.05
NODES_AT_ONCE = (
    16  # plans made before the loop goes on: a change of 5,000 nodes must hold up neither health nor reports
)
FRESH_PLANS = 64  # made for their hash and kept until a stream takes them, a few turns of the loop later
# Of the specs and Secrets in a plan; the rest is for its pods. A plan that an agent cannot take would stop all of it.
MAX_PROFILES_BYTES = 24 << 20
_PODS = control_pb2.NodePlan.DESCRIPTOR.fields_by_name["pods"].number
_MATCHES = control_pb2.PodPlan.DESCRIPTOR.fields_by_name["matches"].number
_VERSION = metadata.version("kernelspan")


class Change(msgspec.Struct, frozen=True):
    """Since when a plan is another: `since` is monotonic; `ns` is when that was found out, by the epoch."""

    since: float
    ns: int
    parent: object  # of Spans


class Plans:
    """The plans of all nodes. `changed(node)` is told where the hash is another than before."""

    def __init__(
        self,
        profiles: Profiles,
        pods: Pods,
        nodes: Nodes,
        secrets: Secrets,
        changed: Callable[[str], object],
        now: Callable[[], float],
        debounce_seconds: float = DEBOUNCE_SECONDS,
        spans: Spans = no_spans,
    ) -> None:
        self._profiles, self._pods, self._nodes = profiles, pods, nodes
        self._secrets = secrets
        self._changed, self._now, self._debounce_seconds = changed, now, debounce_seconds
        self._hashes: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._fresh: dict[str, control_pb2.NodePlan] = {}  # of nodes that nothing has touched since
        self._touched: tuple[float, int] | None = None  # when the first of them was: monotonic s, ns since the epoch
        self._bases: dict[str, tuple[SelectedPod, bytes]] = {}  # by the pod's uid
        self._left_out: dict[str, frozenset[str]] = {}  # by node: profiles' uids
        self._changes: dict[str, Change] = {}  # of nodes whose plan has changed and was not sent since
        self._timer: asyncio.TimerHandle | None = None
        self._parts: Iterator[int] = iter(())  # what is left of a flush
        self._is_open = False
        self._spans = spans
        self.built = 0  # plans made, for tests and metrics

    @property
    def is_open(self) -> bool:
        """Whether all profiles and pods are known, so that a plan is a whole one."""
        return self._is_open

    def open(self) -> None:
        """From now on plans are given: everything has been seen once."""
        self._is_open = True
        self._schedule()

    def touch(self, nodes: Iterable[str]) -> None:
        """Something that their plans are made of has changed."""
        touched = set(nodes)
        if touched and not self._dirty:
            self._touched = time.monotonic(), time.time_ns()
        self._dirty |= touched
        for node in touched & self._fresh.keys():
            del self._fresh[node]
        self._schedule()

    def touch_profile(self, key: ProfileKey) -> None:
        """Something of the profile has changed."""
        self.touch(self._pods.nodes_of(key))

    def _schedule(self) -> None:
        if self._is_open and self._dirty and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._debounce_seconds, self._begin)

    def flush(self) -> None:
        """Makes the touched plans' hashes anew, and tells of those that differ; at once."""
        self.close()
        for parts in (self._parts, self._flushing()):
            for _ in parts:
                pass

    def _begin(self) -> None:
        """A flush in parts, with the loop's other work between them. What is touched meanwhile is the next one's."""
        self._parts = self._flushing()
        self._go_on()

    def _go_on(self) -> None:
        self._timer = None
        if next(self._parts, None) is not None:
            self._timer = asyncio.get_running_loop().call_later(0, self._go_on)
        else:
            self._schedule()

    def _flushing(self) -> Iterator[int]:
        """Gives the number of nodes that it has done so far, after each few."""
        dirty, self._dirty = sorted(self._dirty), set()
        since, since_ns = self._touched or (time.monotonic(), time.time_ns())
        parent: object = None
        for done, node in enumerate(dirty, 1):
            if self._differs(node):
                found_ns = time.time_ns()
                if parent is None:
                    parent = self._spans("plans.change", since_ns, found_ns, {"kernelspan.nodes": len(dirty)})
                self._changes.setdefault(node, Change(since, found_ns, parent))
                self._changed(node)
            if not done % NODES_AT_ONCE:
                yield done

    def _differs(self, node: str) -> bool:
        """Makes the node's hash anew."""
        plan = self.plan(node)
        before = self._hashes.pop(node, "")
        if plan.pods:
            self._hashes[node] = plan.hash
        if plan.hash == before:
            return False
        if node not in self._dirty:
            self._fresh[node] = plan
            if len(self._fresh) > FRESH_PLANS:
                del self._fresh[next(iter(self._fresh))]
        return True

    def take(self, node: str) -> control_pb2.NodePlan:
        """The whole plan of a node: the one that was made for its hash, if that is not long ago, or a new one."""
        return self._fresh.pop(node, None) or self.plan(node)

    def take_change(self, node: str) -> Change | None:
        """The change that a plan of the node was not sent for yet; from now on it was."""
        return self._changes.pop(node, None)

    def close(self) -> None:
        """No flush is to come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def plan(self, node: str) -> control_pb2.NodePlan:
        """The whole plan of a node as of now; one without pods where there is nothing to do."""
        self.built += 1
        now = self._now()
        labels = self._nodes.labels(node)
        pods = [
            (pod, [one for one in self._profiles.wanted(keys, now) if selects_node(one, labels)])
            for pod, keys in self._pods.on_node(node)
        ]
        wanted = {one.key: one for _, matching in pods for one in matching}
        budget = MAX_PROFILES_BYTES
        kept = self._fitting(wanted, budget)
        while (
            len(data := (plan := self._made(node, pods, kept)).SerializeToString(deterministic=True)) > MAX_PLAN_BYTES
        ):
            budget //= 2
            kept = self._fitting(wanted, budget)
        self._left_out.pop(node, None)
        if len(kept) < len(wanted):
            self._left_out[node] = frozenset(one.uid for key, one in wanted.items() if key not in kept)
        plan.hash = _hash(data)
        plan.operator_version = _VERSION
        return plan

    def _base(self, pod: SelectedPod) -> bytes:
        """The pod without its matches; made once for each form of it."""
        known = self._bases.get(pod.uid)
        if known is None or known[0] is not pod:
            if len(self._bases) > 2 * len(self._pods) + NODES_AT_ONCE:
                self._bases.clear()  # most are of pods that are gone
            known = self._bases[pod.uid] = pod, _pod(pod).SerializeToString(deterministic=True)
        return known[1]

    def leaves_out(self, node: str, uid: str) -> bool:
        """Whether the node's plan would have been too large with that profile."""
        return uid in self._left_out.get(node, ())

    def _fitting(self, wanted: dict[ProfileKey, Profile], budget: int) -> dict[ProfileKey, Profile]:
        """The oldest that fit: a new profile never ousts one that is in effect."""
        kept: dict[ProfileKey, Profile] = {}
        for key in sorted(wanted, key=lambda one: (wanted[one].created, one)):
            secret = self._secrets.of(wanted[key])
            size = len(wanted[key].document) + (secret.ByteSize() if secret is not None else 0)
            if size <= budget:
                budget -= size
                kept[key] = wanted[key]
        return kept

    def _made(
        self, node: str, pods: list[tuple[SelectedPod, list[Profile]]], kept: dict[ProfileKey, Profile]
    ) -> control_pb2.NodePlan:
        parts = [
            _delimited(_PODS, self._base(pod) + b"".join(_match(pod, one) for one in found))
            for pod, matching in pods
            if (found := [one for one in matching if one.key in kept])
        ]
        # Of its parts as bytes, one after the other: to set each field of 30 pods anew would be most of a change's time.
        plan = control_pb2.NodePlan.FromString(b"".join(parts))
        plan.node, plan.revision = node, REVISION
        plan.profiles.extend(_profile(kept[key]) for key in sorted(kept))
        secrets = [self._secrets.of(one) for one in sorted(kept.values(), key=lambda one: one.uid)]
        plan.secrets.extend(one for one in secrets if one is not None)
        return plan


def _delimited(field: int, data: bytes) -> bytes:
    """A field of a message that is itself a message, as protobuf's encoding has it."""
    length, size = len(data), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes((field << 3 | 2, *size)) + data


def hash_of(plan: control_pb2.NodePlan) -> str:
    """By its content; one operator always gives the same for the same."""
    bare = control_pb2.NodePlan()
    bare.CopyFrom(plan)
    bare.ClearField("hash")
    bare.ClearField("operator_version")
    return _hash(bare.SerializeToString(deterministic=True))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def selects_node(profile: Profile, labels: dict[str, str]) -> bool:
    """Whether the profile's nodeSelector allows a node with these labels."""
    assert profile.spec is not None
    return all(labels.get(key) == value for key, value in profile.spec.node_selector.items())


def selects_container(selector: ContainerSelector | None, name: str) -> bool:
    """Whether a container of that name is meant."""
    if selector is None:
        return True
    included = not selector.include or any(fnmatch.fnmatchcase(name, glob) for glob in selector.include)
    return included and not any(fnmatch.fnmatchcase(name, glob) for glob in selector.exclude)


def _pod(pod: SelectedPod) -> control_pb2.PodPlan:
    """All of it but its matches."""
    found = control_pb2.PodPlan(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        labels=dict(pod.labels),
        static_hash=pod.static_hash,
        containers=[
            control_pb2.Container(name=one.name, id=one.id, restart_count=one.restart_count) for one in pod.containers
        ],
    )
    if pod.workload_kind:
        found.workload.kind, found.workload.name = pod.workload_kind, pod.workload_name
    return found


def _match(pod: SelectedPod, profile: Profile) -> bytes:
    assert profile.spec is not None
    selector = profile.spec.container_selector
    if selector is None or not (selector.include or selector.exclude):
        return _whole(profile.uid)
    names = [one.name for one in pod.containers if selects_container(selector, one.name)]
    match = control_pb2.MatchSet(profile_uid=profile.uid, containers=names)
    return _delimited(_MATCHES, match.SerializeToString())


@lru_cache(4096)
def _whole(profile_uid: str) -> bytes:
    match = control_pb2.MatchSet(profile_uid=profile_uid, all_containers=True)
    return _delimited(_MATCHES, match.SerializeToString())


def _profile(profile: Profile) -> control_pb2.ProfilePlan:
    return control_pb2.ProfilePlan(
        uid=profile.uid,
        kind=profile.key.kind,
        namespace=profile.key.namespace,
        name=profile.key.name,
        generation=profile.generation,
        spec=profile.document,
    )
