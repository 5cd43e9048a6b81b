# SPDX-License-Identifier: Apache-2.0
"""Making NodePlans, as the bytes that go to the agent. Pure: the same in, the same out, to the byte.

A plan is put together of parts that are bytes already: each pod brings its own, and what depends on profiles alone is
made once for all plans of a Batch. It is what protobuf would make of the same message. A plan always fits into what an
agent takes: else one profile too many would stop all others of the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain

import msgspec

from kernelspan_api.control import MAX_PLAN_BYTES, REVISION
from kernelspan_api.control.control_pb2 import ExportSecret, MatchSet, NodePlan, PodPlan, ProfilePlan
from kernelspan_api.selection import selects_container
from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.models.selected import SelectedPod
from kernelspan_operator.models.watched import WatchKey
from kernelspan_operator.models.wire import delimited, head, number

MAX_PROFILES_BYTES = 24 << 20  # of the specs and Secrets in a plan; the rest is for its pods

PodsOfNode = Sequence[tuple[SelectedPod, frozenset[WatchKey]]]
ProfilesOf = Callable[[frozenset[WatchKey]], Sequence[Profile]]
SecretOf = Callable[[Profile], ExportSecret | None]

_PROFILES, _PODS, _SECRETS = (number(NodePlan, name) for name in ("profiles", "pods", "secrets"))
_MATCHES = number(PodPlan, "matches")
_HASH = NodePlan(hash="0" * 32).SerializeToString()  # as long as every plan's
_VERSION = NodePlan(operator_version=metadata.version("kernelspan")).SerializeToString()


class Plan(msgspec.Struct, frozen=True, gc=False):
    """A NodePlan: `data` is the message whole, the rest is what the operator itself asks of it."""

    hash: str  # of all of it but the hash itself and the operator's version
    data: bytes
    uids: frozenset[str]  # of its profiles; none: it has no pods either
    left_out: frozenset[str]  # the uids of those that it has no room for


@dataclass(slots=True, eq=False)
class _Part:
    """What of a profile is in plans: fields with their tags."""

    profile: Profile
    data: bytes
    secret: bytes  # empty: none
    match: bytes  # of a pod of which it selects every container; empty: it selects containers by their names
    anywhere: bool  # it does not choose nodes

    @property
    def size(self) -> int:
        """Of the room for profiles."""
        return len(self.profile.document) + len(self.secret)


@dataclass(slots=True)
class _Group:
    """The profiles of pods that the same watches select. `matches`: in each of those pods; None: each has its own."""

    parts: tuple[_Part, ...]
    matches: bytes | None
    anywhere: bool


class Batch:
    """Makes plans one after the other, while nothing that they are made of changes.

    `profiles_of`: of those that watches belong to, the ones that trace something now, in their order.
    """

    def __init__(self, profiles_of: ProfilesOf, secret_of: SecretOf) -> None:
        self._profiles_of, self._secret_of = profiles_of, secret_of
        self._groups: dict[frozenset[WatchKey], _Group] = {}
        self._parts: dict[ProfileKey, _Part] = {}

    def plan(self, node: str, labels: dict[str, str], pods: PodsOfNode) -> Plan:
        """The plan of a node. `pods`: by uid, each with the watches that select it."""
        groups = {keys: self._group(keys, labels) for keys in {keys for _, keys in pods}}
        parts = {part: None for group in groups.values() for part in group.parts}
        front = NodePlan(node=node, revision=REVISION).SerializeToString()
        room, budget = MAX_PLAN_BYTES - len(_HASH) - len(front) - len(_VERSION), MAX_PROFILES_BYTES
        kept, rest = parts, b""
        while True:
            if (fitting := _fitting(kept, budget)) != kept:
                kept, groups = fitting, {keys: _among(group, fitting) for keys, group in groups.items()}
            rest = b"".join(chain(_profile_fields(kept), _pod_fields(pods, groups), _secret_fields(kept)))
            if len(rest) <= room:
                break
            budget //= 2
        digest = hashlib.sha256(front)
        digest.update(rest)
        found = digest.hexdigest()[:32]
        return Plan(
            hash=found,
            data=b"".join((NodePlan(hash=found).SerializeToString(), front, _VERSION, rest)),
            uids=frozenset(part.profile.uid for part in kept),
            left_out=frozenset(part.profile.uid for part in parts if part not in kept),
        )

    def _group(self, keys: frozenset[WatchKey], labels: dict[str, str]) -> _Group:
        """Of a node with these labels."""
        found = self._groups.get(keys)
        if found is None:
            found = self._groups[keys] = _grouped(tuple(map(self._part, self._profiles_of(keys))))
        if found.anywhere:
            return found
        return _grouped(tuple(part for part in found.parts if part.anywhere or part.profile.selects_node(labels)))

    def _part(self, profile: Profile) -> _Part:
        found = self._parts.get(profile.key)
        if found is None:
            assert profile.spec is not None
            secret = self._secret_of(profile)
            found = self._parts[profile.key] = _Part(
                profile=profile,
                data=delimited(_PROFILES, _profile(profile).SerializeToString()),
                secret=delimited(_SECRETS, secret.SerializeToString(deterministic=True)) if secret is not None else b"",
                match=_match(profile, None) if _every(profile) else b"",
                anywhere=not profile.spec.node_selector,
            )
        return found


_Parts = dict[_Part, None]  # in no order of its own


def _fitting(parts: _Parts, budget: int) -> _Parts:
    """The oldest that fit: a new profile never ousts one that is in effect."""
    if sum(part.size for part in parts) <= budget:
        return parts
    kept: _Parts = {}
    for part in sorted(parts, key=lambda one: (one.profile.created, one.profile.key)):
        if part.size <= budget:
            budget -= part.size
            kept[part] = None
    return kept


def _grouped(parts: tuple[_Part, ...]) -> _Group:
    same = b"".join(part.match for part in parts) if all(part.match for part in parts) else None
    return _Group(parts, same, all(part.anywhere for part in parts))


def _among(group: _Group, kept: _Parts) -> _Group:
    return _grouped(tuple(part for part in group.parts if part in kept))


def _profile_fields(parts: _Parts) -> Iterator[bytes]:
    for part in sorted(parts, key=_order):
        yield part.data


def _order(part: _Part) -> tuple[str, str, str]:
    key = part.profile.key
    return key.kind, key.namespace, key.name


def _secret_fields(parts: _Parts) -> Iterator[bytes]:
    with_secret = [part for part in parts if part.secret]
    for part in sorted(with_secret, key=lambda one: one.profile.uid):
        yield part.secret


def _pod_fields(pods: PodsOfNode, groups: dict[frozenset[WatchKey], _Group]) -> Iterator[bytes]:
    """Of each pod that a profile selects: the tag and length of its field, and what is in it."""
    for pod, keys in pods:
        group = groups[keys]
        if not group.parts:
            continue
        matches = group.matches
        if matches is None:
            matches = b"".join(part.match or _match(part.profile, pod) for part in group.parts)
        before, after = pod.before_matches, pod.after_matches
        yield head(_PODS, len(before) + len(matches) + len(after))
        yield before
        yield matches
        yield after


def _every(profile: Profile) -> bool:
    """Whether it selects every container of its pods."""
    selector = profile.spec.container_selector if profile.spec is not None else None
    return selector is None or not (selector.include or selector.exclude)


def _match(profile: Profile, pod: SelectedPod | None) -> bytes:
    """The field of a pod that says what of it the profile selects; without a pod, all."""
    if pod is None:
        found = MatchSet(profile_uid=profile.uid, all_containers=True)
    else:
        selector = profile.spec.container_selector if profile.spec is not None else None
        names = [name for name in pod.containers if selects_container(selector, name)]
        found = MatchSet(profile_uid=profile.uid, containers=names)
    return delimited(_MATCHES, found.SerializeToString())


def _profile(profile: Profile) -> ProfilePlan:
    return ProfilePlan(
        uid=profile.uid,
        kind=profile.key.kind,
        namespace=profile.key.namespace,
        name=profile.key.name,
        generation=profile.generation,
        spec=profile.document,
    )
