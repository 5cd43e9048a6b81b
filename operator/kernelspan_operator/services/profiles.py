# SPDX-License-Identifier: Apache-2.0
"""Which profiles there are: each event's object is parsed, held against the rules of `api`, and remembered.

Level-based: what counts is the object as it is now. A profile that breaks a rule is kept as refused, so that its status
says so, and disturbs no other. The policy of the administrator is asked here too: what it does not allow is refused
whole, since half a profile is none that anybody wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import validate
from kernelspan_api.reasons import Reason
from kernelspan_api.resource import Spec
from kernelspan_api.status import read_status
from kernelspan_api.subjects import RequestTLS, Statement
from kernelspan_operator.models.exporter import needed
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.models.profiles import CLUSTER_KIND, Body, Profile, ProfileKey

MAX_PROBLEM_CHARACTERS = 1000  # a condition's message holds 1024
_log = logging.getLogger(__name__)


class Profiles:
    """All profiles. `changed` is told of each change: the key, the one before, the one now; None: there is none."""

    def __init__(self, policy: Policy, changed: Callable[[ProfileKey, Profile | None, Profile | None], object]) -> None:
        self._policy, self._changed = policy, changed
        self._all: dict[ProfileKey, Profile] = {}

    def __iter__(self) -> Iterator[Profile]:
        return iter(list(self._all.values()))

    def get(self, key: ProfileKey) -> Profile | None:
        """The profile; None: there is none."""
        return self._all.get(key)

    def put(self, body: Body) -> None:
        """The object as it is now. Nothing happens where its uid and generation are known."""
        key = key_of(body)
        before = self._all.get(key)
        meta = body.get("metadata") or {}
        if before is not None and (before.uid, before.generation) == (meta.get("uid"), meta.get("generation")):
            return
        now = parse(body, self._policy)
        self._all[key] = now
        if now.problem:
            _log.info("profile.refused namespace=%s name=%s reason=%s", key.namespace, key.name, now.reason)
        self._changed(key, before, now)

    def judge(self, key: ProfileKey, problem: str) -> None:
        """What the profile needs is known by now; `problem`: why it cannot have it. Empty: it has it."""
        found = self._all[key]
        reason = Reason.SECRET_NOT_ALLOWED.value if problem else ""
        self._all[key] = msgspec.structs.replace(
            found, pending=False, problem=problem[:MAX_PROBLEM_CHARACTERS], reason=reason
        )
        if problem and problem != found.problem:
            _log.info("profile.refused namespace=%s name=%s reason=%s", key.namespace, key.name, reason)

    def remove(self, key: ProfileKey, uid: str = "") -> None:
        """The object is gone; with another `uid` than the one known, it was one before it."""
        before = self._all.get(key)
        if before is None or (uid and before.uid != uid):
            return
        del self._all[key]
        self._changed(key, before, None)

    def remove_uid(self, uid: str) -> None:
        """The object of that uid is gone, whatever it was called."""
        for key in [key for key, one in self._all.items() if one.uid == uid]:
            self.remove(key, uid)

    def wanted(self, keys: Iterable[ProfileKey], now_seconds: float) -> list[Profile]:
        """Of `keys`, those that trace something now, in a fixed order."""
        found = (self._all.get(key) for key in sorted(keys))
        return [profile for profile in found if profile is not None and profile.is_wanted(now_seconds)]

    def next_expiry(self, now_seconds: float) -> float | None:
        """When the next of them expires; None: none will."""
        times = [one.expires() for one in self._all.values() if one.is_wanted(now_seconds)]
        return min((time for time in times if time is not None), default=None)


def key_of(body: Body) -> ProfileKey:
    """The object's key."""
    meta = body.get("metadata") or {}
    return ProfileKey(str(body.get("kind", "")), str(meta.get("namespace") or ""), str(meta.get("name", "")))


def parse(body: Body, policy: Policy) -> Profile:
    """The object as a Profile; whatever is wrong with it is said in it, nothing is raised."""
    key, meta = key_of(body), body.get("metadata") or {}
    spec, problem, reason = _spec(body, key, policy)
    return Profile(
        key=key,
        uid=str(meta.get("uid", "")),
        generation=int(meta.get("generation") or 0),
        created=_time(meta.get("creationTimestamp")),
        spec=spec,
        problem=problem[:MAX_PROBLEM_CHARACTERS],
        reason=reason,
        pending=spec is not None and bool(needed(spec)),
        document=msgspec.json.encode(body["spec"], order="deterministic") if spec is not None else b"",
        status=read_status(body.get("status")),
    )


def _spec(body: Body, key: ProfileKey, policy: Policy) -> tuple[Spec | None, str, str]:
    plain: Mapping[str, object] = {name: body[name] for name in ("apiVersion", "kind", "spec") if name in body}
    # Only the name and the namespace: labels and annotations are the API server's to judge.
    metadata = {"name": key.name} | ({"namespace": key.namespace} if key.namespace else {})
    try:
        spec = validate({**plain, "metadata": metadata}).spec
    except ProfileError as error:
        return None, "; ".join(str(one) for one in error.problems), Reason.INVALID_SPEC.value
    if forbidden := refused_by(policy, key, spec):
        return None, "; ".join(forbidden) + f". {Reason.FORBIDDEN_BY_POLICY.remedy}", Reason.FORBIDDEN_BY_POLICY.value
    return spec, "", ""


def refused_by(policy: Policy, key: ProfileKey, spec: Spec) -> list[str]:
    """What the administrator does not allow of the profile, each with its field."""
    found = []
    if key.kind == CLUSTER_KIND and not policy.cluster_profiles:
        found.append("a ClusterTraceProfile is not allowed")
    if spec.probes and not policy.probes:
        found.append("spec.probes is not allowed")
    for index, request in enumerate(spec.requests):
        if request.statement is Statement.RAW and not policy.raw_statements:
            found.append(f"spec.requests[{index}].statement: Raw is not allowed")
        if request.tls is RequestTLS.USER_PROBES and not policy.user_probes:
            found.append(f"spec.requests[{index}].tls: UserProbes is not allowed")
    endpoint = spec.export.otlp.endpoint if spec.export else ""
    if not policy.allows_endpoint(endpoint):
        allowed = ", ".join(policy.endpoints) or "the chart's collector alone"
        found.append(f"spec.export.otlp.endpoint: {endpoint} is not allowed (allowed: {allowed})"[:500])
    return found


def _time(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:  # the API server always sets it; without it nothing expires
        return datetime.max.replace(tzinfo=UTC)
