# SPDX-License-Identifier: Apache-2.0
"""Programs of random probes: they compile, this kernel takes them, and none calls what writes to memory or interferes.

`make fuzz` goes on with new ones.
"""

from __future__ import annotations

import base64
import struct

import pytest

from kernelspan_agent.probes import bpf
from tests.support import own_generation

COUNT = 24
SEED = 20


def test_what_generated_programs_call() -> None:
    """Every helper is on the list of those that only look; every program of a kind that needs no function is loaded."""
    made = own_generation.some(SEED, COUNT)
    modules = own_generation.compiled([text for _, _, text in made])
    called = set()
    for index, (_, places, text) in enumerate(made):
        module = modules[f"o{index}"]
        assert set(module["programs"]) == set(text.programs)
        for program in module["programs"].values():
            called |= own_generation.calls(program)
        if places.enters[0].kind != bpf.PROG_TRACING:
            own_generation.load(places, text, module)
    assert {number for kind, number in called if kind == "helper"} <= own_generation.HELPERS
    assert len({number for kind, number in called if kind == "kfunc"}) <= 1  # the kernel's, by which memory is read


@pytest.mark.parametrize("number", [36, 58, 109, 117, 9, 11, 44, 54])
def test_a_forbidden_call_is_seen(number: int) -> None:
    """bpf_probe_write_user, bpf_override_return, bpf_send_signal, writers of packets: where one is, it is found."""
    code = (
        struct.pack("<BBhi", 0xB7, 0, 0, 0)
        + struct.pack("<BBhi", 0x85, 0, 0, number)
        + struct.pack("<BBhi", 0x95, 0, 0, 0)
    )
    found = own_generation.calls({"instructions": base64.b64encode(code).decode()})
    assert found == {("helper", number)}
    assert number not in own_generation.HELPERS
