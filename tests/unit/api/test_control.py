# SPDX-License-Identifier: Apache-2.0
"""The messages between agent and operator: the code that is kept is the code of the file, and the file keeps its rules."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise

from kernelspan_agent.trace.peers import Outcome
from kernelspan_api.control import MEET, RESOLVE, SYNC, control_pb2, peer_name
from tools.protos import ROOT, SOURCE, TARGET, generate


def source() -> str:
    return (ROOT / "protos" / SOURCE).read_text()


def test_the_code_is_that_of_the_file() -> None:
    """`make protos` would change nothing."""
    assert {name: (TARGET / name).read_bytes() for name in generate()} == generate()


def test_every_field_has_a_comment() -> None:
    """And every message, service and call."""
    lines = [line.strip() for line in source().splitlines()]
    says = re.compile(r"(?:message|service|rpc|oneof) |.* = \d+;$")
    assert [line for before, line in pairwise(lines) if says.match(line) and not before.startswith("//")] == []


def test_the_paths_of_the_calls() -> None:
    """Neither side has stubs: what they call is what the file names."""
    services = control_pb2.DESCRIPTOR.services_by_name.values()
    assert [f"/{service.full_name}/{method.name}" for service in services for method in service.methods] == [
        SYNC, MEET, RESOLVE,
    ]  # fmt: skip


def test_outcomes_are_those_of_the_agent() -> None:
    """By name and number."""
    assert {f"OUTCOME_{each.name}": each.value for each in Outcome} | {"OUTCOME_UNSPECIFIED": 0} == dict(
        control_pb2.Verdict.Outcome.items()
    )


def test_names_of_peers() -> None:
    """Each node's its own, whatever it is called, and a name that DNS could have."""
    names = [peer_name(node) for node in ("a", "b", "a.b", "x" * 253, "peer.kernelspan")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{40}\.peer\.kernelspan", name) for name in names)


def test_constants_cost_no_protobuf() -> None:
    """An agent without an operator never loads it."""
    code = "import sys, kernelspan_api.control; sys.exit('google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
