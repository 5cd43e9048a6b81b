# SPDX-License-Identifier: Apache-2.0
"""Making one NodePlan. Pure: the same in, the same out, to the byte.

Pods that the same watches select have the same profiles: what of a plan depends on that alone is made once for all of
them. A plan always fits into what an agent takes: else one profile too many would stop all others of the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from kernelspan_api.control import MAX_PLAN_BYTES, REVISION, control_pb2
from kernelspan_api.selection import selects_container
from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.models.selected import SelectedPod

MAX_PROFILES_BYTES = 24 << 20  # of the specs and Secrets in a plan; the rest is for its pods

PodsOfNode = Sequence[tuple[SelectedPod, frozenset[ProfileKey]]]
SecretOf = Callable[[Profile], control_pb2.ExportSecret | None]


def made(
    node: str,
    labels: dict[str, str],
    pods: PodsOfNode,
    wanted: Callable[[Iterable[ProfileKey]], Sequence[Profile]],
    secret_of: SecretOf,
) -> tuple[control_pb2.NodePlan, frozenset[str]]:
    """The plan without its hash, and the uids of the profiles that it had no room for.

    `pods`: by uid, each with who selects it. `wanted`: of those, the ones that trace something now, in their order.
    """
    groups = {keys: [one for one in wanted(keys) if one.selects_node(labels)] for keys in {keys for _, keys in pods}}
    profiles = {one.key: one for group in groups.values() for one in group}
    budget = MAX_PROFILES_BYTES
    kept = _fitting(profiles, secret_of, budget)
    while (plan := _plan(node, pods, groups, kept, secret_of)).ByteSize() > MAX_PLAN_BYTES:
        budget //= 2
        kept = _fitting(profiles, secret_of, budget)
    return plan, frozenset(one.uid for key, one in profiles.items() if key not in kept)


def _fitting(profiles: dict[ProfileKey, Profile], secret_of: SecretOf, budget: int) -> dict[ProfileKey, Profile]:
    """The oldest that fit: a new profile never ousts one that is in effect."""
    kept: dict[ProfileKey, Profile] = {}
    for one in sorted(profiles.values(), key=lambda one: (one.created, one.key)):
        secret = secret_of(one)
        size = len(one.document) + (secret.ByteSize() if secret is not None else 0)
        if size <= budget:
            budget -= size
            kept[one.key] = one
    return kept


def _plan(
    node: str,
    pods: PodsOfNode,
    groups: dict[frozenset[ProfileKey], list[Profile]],
    kept: dict[ProfileKey, Profile],
    secret_of: SecretOf,
) -> control_pb2.NodePlan:
    plan = control_pb2.NodePlan(node=node, revision=REVISION)
    fitting = {keys: [one for one in group if one.key in kept] for keys, group in groups.items()}
    matches = {keys: [_match(one) for one in group] for keys, group in fitting.items()}
    for pod, keys in pods:
        if fitting[keys]:
            _add_pod(plan, pod, fitting[keys], matches[keys])
    plan.profiles.extend(_profile(kept[key]) for key in sorted(kept))
    secrets = [secret_of(one) for one in sorted(kept.values(), key=lambda one: one.uid)]
    plan.secrets.extend(one for one in secrets if one is not None)
    return plan


def hash_of(plan: control_pb2.NodePlan) -> str:
    """By its content; one operator always gives the same for the same."""
    bare = plan
    if plan.hash or plan.operator_version:
        bare = control_pb2.NodePlan()
        bare.CopyFrom(plan)
        bare.ClearField("hash")
        bare.ClearField("operator_version")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:32]


def _add_pod(
    plan: control_pb2.NodePlan, pod: SelectedPod, profiles: list[Profile], matches: list[control_pb2.MatchSet]
) -> None:
    found = plan.pods.add(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        labels=dict(pod.labels),
        static_hash=pod.static_hash,
        containers=[
            control_pb2.Container(name=one.name, id=one.id, restart_count=one.restart_count) for one in pod.containers
        ],
        matches=matches,
    )
    if pod.workload_kind:
        found.workload.kind, found.workload.name = pod.workload_kind, pod.workload_name
    for profile, match in zip(profiles, found.matches, strict=True):
        if not match.all_containers:
            selector = profile.spec.container_selector if profile.spec is not None else None
            match.containers.extend(one.name for one in pod.containers if selects_container(selector, one.name))


def _match(profile: Profile) -> control_pb2.MatchSet:
    """Without the names of containers, which are each pod's own."""
    selector = profile.spec.container_selector if profile.spec is not None else None
    every = selector is None or not (selector.include or selector.exclude)
    return control_pb2.MatchSet(profile_uid=profile.uid, all_containers=every)


def _profile(profile: Profile) -> control_pb2.ProfilePlan:
    return control_pb2.ProfilePlan(
        uid=profile.uid,
        kind=profile.key.kind,
        namespace=profile.key.namespace,
        name=profile.key.name,
        generation=profile.generation,
        spec=profile.document,
    )
