# SPDX-License-Identifier: Apache-2.0
"""bpf(2) says EPERM for want of a capability and, before Linux 5.11, of locked memory: which of the two is told, with what to do."""

from __future__ import annotations

import resource

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import build, refusals

# What bcc 0.26 writes on its error output where the kernel refuses it a map.
WORDS = "could not open bpf map: ks_procs, error: Operation not permitted\n"
ANSWER = {"error": "Exception: Failed to compile BPF module <text>", "stage": "compile", "module": "core"}


def compile_refused(words: str) -> MachineError:
    """The error of a compile whose child said these words."""
    return build._refusal(ANSWER, words)


@pytest.mark.parametrize(
    ("release", "limit", "names"),
    [
        ("5.10.0-28-amd64", 64 << 10, "ulimit -l unlimited"),
        ("4.18.0-553.el8.x86_64", 8 << 20, "ulimit -l unlimited"),
        ("5.10.0-28-amd64", resource.RLIM_INFINITY, "CAP_BPF"),
        ("5.11.0", 64 << 10, "CAP_BPF"),
        ("6.1.0-18-amd64", 64 << 10, "CAP_BPF"),
        ("not a number", 64 << 10, "CAP_BPF"),
    ],
)
def test_the_reason_is_the_one_that_the_kernel_can_have(release: str, limit: int, names: str) -> None:
    """Locked memory where it is counted and bounded, and the bound is named."""
    found = refusals.not_permitted("map ks_procs", release=release, limit=limit)
    assert found.reason == "PermissionDenied"
    assert names in found.hint
    locked = "locked memory" in str(found)
    assert locked == (names != "CAP_BPF")
    assert (f"{limit >> 10} KiB" in str(found)) == locked


def test_a_map_that_is_refused_while_compiling_is_no_failure_of_the_compiler() -> None:
    """bcc makes maps while it compiles: what it says then is of the kernel's, not of the text."""
    found = compile_refused(WORDS)
    assert found.reason == "PermissionDenied"
    assert "ks_procs" in str(found)
    assert "bcc" not in found.hint


def test_other_words_are_told_as_they_are() -> None:
    """A text that does not compile, and a map that is refused for another reason."""
    for words in ("x.c:3:1: error: unknown type name 'u65'\n", "could not open bpf map: m, error: Invalid argument\n"):
        found = compile_refused(words)
        assert found.reason == "CompileFailed"
        assert words.strip() in str(found)
