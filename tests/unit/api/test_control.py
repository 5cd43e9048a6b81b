# SPDX-License-Identifier: Apache-2.0
"""The messages between agent and operator: the code that is kept is the code of the file, and the file keeps its rules."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise

from kernelspan_api.control import SYNC, control_pb2
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


def test_the_path_of_the_call() -> None:
    """Neither side has stubs: what they call is what the file names."""
    service = control_pb2.DESCRIPTOR.services_by_name["Control"]
    assert f"/{service.full_name}/{service.methods[0].name}" == SYNC


def test_constants_cost_no_protobuf() -> None:
    """An agent without an operator never loads it."""
    code = "import sys, kernelspan_api.control; sys.exit('google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
