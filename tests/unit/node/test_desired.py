# SPDX-License-Identifier: Apache-2.0
"""Plans as the agent understands them: a piece at a time, and whatever a spec holds."""

from __future__ import annotations

import pytest

from kernelspan_agent.node.desired import Desired, Reader, uid_of
from kernelspan_api.control.control_pb2 import ExportSecret, NodePlan, ProfilePlan

SPEC = b'{"podSelector":{},"files":{}}'


def plan_of(*specs: bytes, secrets: tuple[ExportSecret, ...] = ()) -> NodePlan:
    profiles = [
        ProfilePlan(uid=f"u/{number}", kind="TraceProfile", namespace="n", name="p", generation=2, spec=spec)
        for number, spec in enumerate(specs)
    ]
    return NodePlan(profiles=profiles, secrets=secrets)


def read(reader: Reader, plan: NodePlan) -> list[Desired]:
    reader.begin(plan)
    found = reader.go_on(60.0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "spec",
    [b"", b"\0", b"{", b"[]", b'{"podSelector":"\xff"}', b'{"a":' * 5000, b"[" * 9000 + b"]" * 9000, b"1e999", b"\\ud800"],
)  # fmt: skip
def test_no_spec_is_more_than_refused(spec: bytes) -> None:
    """It fails by itself, and those beside it are read."""
    bad, good = read(Reader(), plan_of(spec, SPEC))
    assert (bad.profile, bad.reason) == (None, "AgentOutdated")
    assert good.profile is not None


def test_a_piece_at_a_time() -> None:
    """With no time at all one profile is read at each look; the plan is whole only then."""
    reader = Reader()
    reader.begin(plan_of(SPEC, SPEC, SPEC))
    assert [reader.go_on(0.0) is None for _ in range(3)] == [True, True, False]
    assert reader.plan is None


def test_what_was_in_the_plan_before_is_known() -> None:
    """Also under another Secret, which makes it another profile to the engine."""
    reader = Reader()
    (before,) = read(reader, plan_of(SPEC))
    (same,) = read(reader, plan_of(SPEC))
    (other,) = read(reader, plan_of(SPEC, secrets=(ExportSecret(profile_uid="u/0", ca=b"x"),)))
    (changed,) = read(reader, plan_of(SPEC.replace(b"files", b"waits")))
    assert before.profile is same.profile is other.profile
    assert before.key == same.key != other.key
    assert changed.profile is not before.profile
    assert {uid_of(each.key) for each in (before, other, changed)} == {"u/0"}


def test_what_this_version_lacks_is_told_apart_from_what_a_node_does() -> None:
    """Requests are a part that is missing; which own probes a node can have it finds out by attaching them."""
    spec = (
        b'{"podSelector":{},"files":{},"requests":[{"protocol":"HTTP","tls":"UserProbes"}],'
        b'"probes":[{"name":"x","kprobe":{"call":"no_such_function"}}]}'
    )
    (found,) = read(Reader(), plan_of(spec))
    assert [each.name for each in found.missing] == ["requests"]
    assert [each.name for each in found.wanted.probes] == ["x"]
