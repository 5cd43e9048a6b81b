# SPDX-License-Identifier: Apache-2.0
"""What a plan asks for, as this agent understands it: profiles that can be traced, and what of them cannot.

The agent validates every spec anew: one that it does not understand is refused by itself, with all others going on. Of
what this version cannot do, requests are a part that the rest of a profile does without (it is told of as a probe that
failed); any other would make what is traced mean something else, and refuses the whole profile. Which of the user's own
probes this node can have is found out by attaching them.
"""

from __future__ import annotations

import hashlib
import time
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

_PARTS = ("spec.requests",)


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
    key: str = ""  # what the engine knows it by: with another spec, or another Secret, it is another profile there
    asks: Wanted | None = None

    @property
    def wanted(self) -> Wanted:
        """What is traced for it; `profile` must be there."""
        assert self.asks is not None
        return self.asks


class Reader:
    """Understands one plan after the other, a piece at a time: 1,000 profiles of 20 KiB take 20 s of a CPU.

    What was in the plan before is known already.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Desired] = {}
        self.plan: NodePlan | None = None  # that is being read
        self._found: dict[tuple[object, ...], Desired] = {}
        self._done: list[Desired] = []

    def begin(self, plan: NodePlan) -> None:
        """Another plan is to be read, from its beginning."""
        self._known |= self._found
        self.plan, self._found, self._done = plan, {}, []

    def go_on(self, seconds: float) -> list[Desired] | None:
        """Every profile of the plan, in its order; None: it took longer than that, and is to be gone on with."""
        assert self.plan is not None
        end = time.monotonic() + seconds
        for each in self.plan.profiles[len(self._done) :]:
            key = (each.kind, each.namespace, each.name, each.uid, each.generation, each.spec)
            self._found[key] = found = self._found.get(key) or self._known.get(key) or _desired(each)
            self._done.append(found)
            if time.monotonic() >= end and len(self._done) < len(self.plan.profiles):
                return None
        secrets = {each.profile_uid: each for each in self.plan.secrets}
        self.plan, self._known = None, self._found
        return [_with(each, secrets.get(each.uid)) for each in self._done]


def _with(desired: Desired, secret: ExportSecret | None) -> Desired:
    content = secret.SerializeToString(deterministic=True) if secret is not None else b""
    key = f"{desired.uid}/{desired.generation}/{hashlib.sha256(content).hexdigest()[:16] if content else ''}"
    return replace(desired, secret=secret, key=key)


def uid_of(key: str) -> str:
    """The uid of the profile that the engine knows by `key`."""
    return key.rsplit("/", 2)[0]


def _desired(plan: ProfilePlan) -> Desired:
    try:
        spec = msgspec.json.decode(plan.spec)
        metadata: Mapping[str, str] = {"name": plan.name, **({"namespace": plan.namespace} if plan.namespace else {})}
        document = {"apiVersion": API_VERSION, "kind": plan.kind, "metadata": metadata, "spec": spec}
        profile = validate(document)
    except (ProfileError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = Reason.AGENT_OUTDATED
        return Desired(plan.uid, plan.generation, None, (), reason.value, f"{reason.remedy} It does not know: {error}")
    missing, fatal = [], []
    for problem in unavailable(profile):
        part = next((each for each in _PARTS if problem.path.startswith(each)), "")
        if part:
            missing.append(Missing(part.removeprefix("spec."), f"{problem.path}: {problem.message}"))
        else:
            fatal.append(f"{problem.path}: {problem.message}")
    if fatal:
        return Desired(plan.uid, plan.generation, None, (), Reason.AGENT_OUTDATED.value, "; ".join(fatal))
    by_name = {each.name: each for each in reversed(missing)}
    asks = wanted_by(plan.name, profile.spec)
    return Desired(plan.uid, plan.generation, profile, tuple(by_name.values()), asks=asks)
