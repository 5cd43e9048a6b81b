# SPDX-License-Identifier: Apache-2.0
"""No program of ours has what 5.10 refuses at once, seen here instead of in a virtual machine half an hour later."""

from __future__ import annotations

import base64
import os
import struct
from dataclasses import replace

import pytest

from kernelspan_agent.probes import constants
from kernelspan_agent.probes.build import build
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.source import walkers
from kernelspan_agent.ring.size import RING_BYTES
from tests.support.flow import back_edges

pytestmark = pytest.mark.root


def code(*instructions: tuple[int, int]) -> bytes:
    """Of operation codes and offsets."""
    return b"".join(struct.pack("<BBhi", operation, 0, offset, 0) for operation, offset in instructions)


def test_what_is_one() -> None:
    """A counter that falls into its loop's head; not a loop that is closed by a jump."""
    falls = code((0xB7, 0), (0x05, 1), (0x07, 0), (0xBF, 0), (0x25, -3), (0x95, 0))
    assert back_edges(falls) == [(2, 3)]
    assert back_edges(code((0xB7, 0), (0xBF, 0), (0x07, 0), (0x25, -3), (0x95, 0))) == []
    assert back_edges(code((0x18, 0), (0x00, 0), (0x95, 0))) == []


@pytest.mark.parametrize("raw", [True, False])
def test_no_program_has_one(raw: bool) -> None:
    """By either mechanism, with every walker."""
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=True, raw=raw)
    built = build(modules_of(replace(EVERYTHING, runtimes=tuple(walkers()))), defines, os.environ)
    programs = {
        name: base64.b64decode(each["instructions"])
        for module in built.modules.values()
        for name, each in module["programs"].items()
    }
    assert {"ks_nodejs_codes", "ks_py", "ks_java_find"} <= programs.keys()
    assert {name: found for name, each in programs.items() if (found := back_edges(each))} == {}
