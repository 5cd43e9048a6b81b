# SPDX-License-Identifier: Apache-2.0
"""Programs of random probes: they compile, this kernel takes them, and none calls what writes to memory or interferes.

`make fuzz` goes on with new ones.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import pytest

from tests.support import many_profiles, own_generation

COUNT = 24
TOGETHER = 4
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
        if own_generation.can_be_loaded(places):
            own_generation.load(places, text, module)
    assert {number for kind, number in called if kind == "helper"} <= own_generation.HELPERS
    assert len({number for kind, number in called if kind == "kfunc"}) <= 1  # the kernel's, by which memory is read


def test_several_compiled_together_are_what_each_is_alone() -> None:
    """Instruction by instruction: `make profiles` compiles so, the agent one by one."""
    made = [many_profiles.profile_of(number) for number in range(TOGETHER)]
    alone, together = many_profiles.compiled(made, at_once=1), many_profiles.compiled(made, at_once=TOGETHER)
    for one, other in zip(alone, together, strict=True):
        assert not isinstance(one, str)
        assert not isinstance(other, str)
        assert one["maps"] == other["maps"]
        assert {name: _without_maps(each) for name, each in one["programs"].items()} == {
            name: _without_maps(each) for name, each in other["programs"].items()
        }


def _without_maps(program: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """Its instructions without the numbers that its maps had while it was compiled."""
    code = bytearray(base64.b64decode(program["instructions"]))
    for index, _ in program["relocations"]:
        struct.pack_into("<i", code, index * 8 + 4, 0)
    return bytes(code), program["relocations"]


def test_a_profile_that_does_not_compile_fails_alone() -> None:
    """Whatever it was compiled together with."""
    made = [many_profiles.profile_of(number) for number in range(3)]
    broken = replace(made[1], generated=replace(made[1].generated, text=made[1].generated.text + "int broken"))
    found = many_profiles.compiled([made[0], broken, made[2]])
    assert [isinstance(each, str) for each in found] == [False, True, False]
    assert "error" in str(found[1])


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
