# SPDX-License-Identifier: Apache-2.0
"""What a plan asks for, as this agent understands it: profiles that can be traced, and what of them cannot.

The agent validates every spec anew: one that it does not understand is refused by itself, with all others going on. Of
what this version cannot do, requests and probes are parts that the rest of a profile does without (each is told of as a
probe that failed); any other would make what is traced mean something else, and refuses the whole profile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from kernelspan_api.plan import Wanted
from kernelspan_api.plan import wanted as wanted_by
from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import TraceProfile, unavailable, validate
from kernelspan_api.reasons import Reason
from kernelspan_api.resource import API_VERSION

if TYPE_CHECKING:
    from kernelspan_api.control.control_pb2 import ExportSecret, NodePlan, ProfilePlan

_PARTS = ("spec.requests", "spec.probes")


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of a profile that this agent cannot do."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Desired:
    """One profile of the plan. `profile` None: refused, for `reason`."""

    uid: str
    generation: int
    profile: TraceProfile | None
    missing: tuple[Missing, ...] = ()
    reason: str = ""
    message: str = ""
    secret: ExportSecret | None = None

    @property
    def key(self) -> str:
        """What the engine knows it by: with another spec, or another Secret, it is another profile there."""
        content = self.secret.SerializeToString(deterministic=True) if self.secret is not None else b""
        return f"{self.uid}/{self.generation}/{hashlib.sha256(content).hexdigest()[:16] if content else ''}"

    @property
    def wanted(self) -> Wanted:
        """What is traced for it; `profile` must be there."""
        assert self.profile is not None
        return wanted_by(self.profile.metadata.name, self.profile.spec)


def desired_of(plan: NodePlan) -> list[Desired]:
    """Every profile of a plan, in its order."""
    secrets = {each.profile_uid: each for each in plan.secrets}
    return [replace(_desired(each), secret=secrets.get(each.uid)) for each in plan.profiles]


def uid_of(key: str) -> str:
    """The uid of the profile that the engine knows by `key`."""
    return key.partition("/")[0]


def _desired(plan: ProfilePlan) -> Desired:
    try:
        spec = msgspec.json.decode(plan.spec)
        metadata: Mapping[str, str] = {"name": plan.name, **({"namespace": plan.namespace} if plan.namespace else {})}
        document = {"apiVersion": API_VERSION, "kind": plan.kind, "metadata": metadata, "spec": spec}
        profile = validate(document)
    except (ProfileError, msgspec.DecodeError) as error:
        reason = Reason.AGENT_OUTDATED
        return Desired(plan.uid, plan.generation, None, (), reason.value, f"{reason.remedy} It does not know: {error}")
    missing, fatal = [], []
    for problem in unavailable(profile, in_cluster=True):
        part = next((each for each in _PARTS if problem.path.startswith(each)), "")
        if part:
            missing.append(Missing(part.removeprefix("spec."), f"{problem.path}: {problem.message}"))
        else:
            fatal.append(f"{problem.path}: {problem.message}")
    if fatal:
        return Desired(plan.uid, plan.generation, None, (), Reason.AGENT_OUTDATED.value, "; ".join(fatal))
    by_name = {each.name: each for each in reversed(missing)}
    return Desired(plan.uid, plan.generation, profile, tuple(by_name.values()))
