# SPDX-License-Identifier: Apache-2.0
"""What is asked for as a File or a Path is one by its type in the kernel: else what is told would be of something else."""

from __future__ import annotations

import msgspec
import pytest

from kernelspan_agent.probes.ktypes import Leaf, LeafKind
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.sources import ArgumentError, RawTracepoint
from kernelspan_api.userprobes import UserProbe
from tests.support.own_generation import generated


def text(kind: str, leaf: Leaf | None) -> str:
    """The program of a probe with one argument of that type, which the kernel says is that."""
    probe = msgspec.convert(
        {
            "name": "x",
            "mode": "Event",
            "tracepoint": {"category": "sched", "event": "x", "raw": True},
            "args": [{"index": 0, "type": kind, "attribute": "a"}],
        },
        UserProbe,
    )
    return generated(probe, Places([RawTracepoint("x", 1)], type_of=lambda _: leaf)).text


def pointer(name: str) -> Leaf:
    """A pointer, as the kernel's types have it."""
    return Leaf(LeafKind.POINTER, name, 8)


@pytest.mark.parametrize(
    ("kind", "type_name", "reader"),
    [
        ("File", "struct file *", "KS_FILE_PATH"),
        ("Path", "struct path *", "ks_path_id(s, a0)"),
        ("Path", "const struct path *", "ks_path_id(s, a0)"),
        ("Path", "struct dentry *", "ks_entry_id(s, a0)"),
        ("Path", "const struct dentry *", "ks_entry_id(s, a0)"),
        ("Path", "void *", "ks_path_id(s, a0)"),
        ("File", "unsigned long", "KS_FILE_PATH"),
    ],
)
def test_what_it_leads_to_decides_how_it_is_read(kind: str, type_name: str, reader: str) -> None:
    assert reader in text(kind, pointer(type_name))


def test_where_the_kernel_says_nothing_it_is_as_the_profile_says() -> None:
    assert "ks_path_id(s, a0)" in text("Path", None)
    assert "ks_entry_id" not in text("Path", None)


@pytest.mark.parametrize(
    ("kind", "type_name", "hint"),
    [
        ("File", "struct dentry *", "type Path"),
        ("File", "struct path *", "type Path"),
        ("Path", "struct file *", "type File"),
        ("Path", "const struct inode *", "resolve"),
        ("File", "struct task_struct *", "resolve"),
    ],
)
def test_anything_else_is_refused(kind: str, type_name: str, hint: str) -> None:
    """With what would be right."""
    with pytest.raises(ArgumentError, match=hint):
        text(kind, pointer(type_name))
