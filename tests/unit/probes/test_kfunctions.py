# SPDX-License-Identifier: Apache-2.0
"""Functions by a list of symbols made by hand: one, several, copies, parts, what is gone, what may not be probed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.kfunctions import KernelFunctions
from kernelspan_agent.probes.nearest import nearest
from kernelspan_agent.probes.own.machine import Machine
from kernelspan_api.userprobes import Kprobe

SYMBOLS = """\
ffffffff81000000 T vfs_read
ffffffff81000100 t init_once
ffffffff81000180 t __pfx_init_once
ffffffff81000200 t init_once
ffffffff81000300 t vfs_read.cold
ffffffff81000400 t copied.isra.0
ffffffff81000500 t copied.constprop.0.cold
ffffffff81000600 t parted.part.0
ffffffff81000700 d data_only
ffffffff81000800 W weak_one
ffffffff81000900 T get_kprobe
ffffffff83000000 T _sinittext
ffffffff83000100 t gone_since
ffffffff83000200 T _einittext
ffffffffc0000000 t ovl_open\t[overlay]
ffffffffc0000100 t init_once\t[overlay]
ffffffffc0100000 t bpf_prog_6deef7357e7b4530_x\t[bpf]
"""
TRACEABLE = "vfs_read\nweak_one\novl_open [overlay]\n\ncopied.isra.0\n"
BLACKLIST = (
    "0xffffffff81000900-0xffffffff81000950\tget_kprobe\n0x1-0x2\n\n"
    "0xffffffff81000f00-0xffffffff81000f50\tvfs_read\n"  # another of that name
    "0xffffffff81000800-0xffffffff81000810\talias_of_weak_one\n"
)


@pytest.fixture
def functions(tmp_path: Path) -> KernelFunctions:
    (tmp_path / "kallsyms").write_text(SYMBOLS)
    (tmp_path / "available_filter_functions").write_text(TRACEABLE)
    (tmp_path / "blacklist").write_text(BLACKLIST)
    return KernelFunctions(tmp_path / "kallsyms", (tmp_path / "nowhere", tmp_path), tmp_path / "blacklist")


def test_one_and_several(functions: KernelFunctions) -> None:
    """Static ones share a name; the module is that of the first."""
    found = functions.find(["vfs_read", "init_once", "ovl_open", "weak_one", "nothing", "data_only", "copied.isra.0"])
    assert set(found) == {"vfs_read", "init_once", "ovl_open", "weak_one", "copied.isra.0"}
    assert found["vfs_read"].addresses == (0xFFFFFFFF81000000,)
    assert found["vfs_read"].clones == ("vfs_read.cold",)
    assert found["init_once"].addresses == (0xFFFFFFFF81000100, 0xFFFFFFFF81000200, 0xFFFFFFFFC0000100)
    assert (found["init_once"].module, found["ovl_open"].module) == ("", "overlay")
    assert {name: each.traceable for name, each in found.items()} == {
        "vfs_read": True, "init_once": False, "ovl_open": True, "weak_one": True, "copied.isra.0": True,
    }  # fmt: skip
    assert functions.find(["get_kprobe"])["get_kprobe"].blacklisted is True
    assert (found["vfs_read"].blacklisted, found["weak_one"].blacklisted) == (False, True)


@pytest.mark.parametrize(
    ("name", "reason", "words", "hint"),
    [
        ("vfs_reed", "FunctionNotFound", "no such function", "vfs_read"),
        ("copied", "FunctionNotFound", "inlined or renamed: this kernel has it only as copied.isra.0", "copied.isra.0"),
        ("parted", "FunctionNotFound", r"only parts of it \(parted.part.0\)", "that calls it"),
        ("gone_since", "FunctionNotFound", "no such function", ""),
        ("data_only", "FunctionNotFound", "no such function", ""),
        ("bpf_prog_6deef7357e7b4530_x", "FunctionNotFound", "no such function", ""),
        ("get_kprobe", "FunctionBlacklisted", "run it themselves", "that calls it"),
        ("", "FunctionNotFound", "no such function", ""),
        ("vfs_read\nx", "FunctionNotFound", "no such function", ""),
    ],
)
def test_what_cannot_be_probed(functions: KernelFunctions, name: str, reason: str, words: str, hint: str) -> None:
    """Each with its reason and what to do instead."""
    with pytest.raises(MachineError, match=words) as told:
        functions.function(name)
    assert told.value.reason == reason
    assert hint in told.value.hint


def test_several_are_looked_for_at_once(functions: KernelFunctions, tmp_path: Path) -> None:
    """And not again: what the kernel has not is known as well."""
    names = ["vfs_read", "ovl_open", "parted", "nothing"]
    assert set(functions.known(names)) == {"vfs_read", "ovl_open", "parted"}
    (tmp_path / "kallsyms").unlink()
    assert functions.function("ovl_open").module == "overlay"
    assert set(functions.known(names)) == {"vfs_read", "ovl_open", "parted"}
    with pytest.raises(MachineError, match="parted"):
        functions.function("parted")


def test_a_list_that_cannot_be_read_is_each_probes_own_trouble(tmp_path: Path) -> None:
    """What looks for the functions of all of them at once says nothing; those that need one do."""
    machine = Machine()
    machine.functions = KernelFunctions(tmp_path / "missing")
    machine.expect([Kprobe(call="vfs_read")])
    with pytest.raises(MachineError, match="No such file"):
        machine.functions.function("vfs_read")


def test_names_by_a_glob(functions: KernelFunctions) -> None:
    """Whole functions only, each once."""
    assert functions.names() == ["_einittext", "copied.isra.0", "get_kprobe", "init_once", "ovl_open", "vfs_read", "weak_one"]  # fmt: skip
    assert functions.names("*o*en") == ["ovl_open"]
    assert functions.names("[") == []


def test_what_the_kernel_does_not_show_is_not_known(tmp_path: Path) -> None:
    """Addresses of 0, no lists: a function is there all the same."""
    (tmp_path / "kallsyms").write_text("0000000000000000 T vfs_read\n0000000000000000 t vfs_read\n")
    found = KernelFunctions(tmp_path / "kallsyms", (tmp_path,), tmp_path / "blacklist").function("vfs_read")
    assert (found.addresses, found.traceable, found.blacklisted) == ((0, 0), None, None)
    (tmp_path / "blacklist").write_text("0x0000000000000000-0x0000000000000000\tvfs_read\n")
    functions = KernelFunctions(tmp_path / "kallsyms", (tmp_path,), tmp_path / "blacklist")
    with pytest.raises(MachineError, match="run it themselves"):
        functions.function("vfs_read")
    with pytest.raises(MachineError, match="No such file"):
        KernelFunctions(tmp_path / "missing").find(["x"])


@given(st.binary(max_size=400))
def test_any_list_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever stands there."""
    path = tmp_path_factory.mktemp("list") / "kallsyms"
    path.write_bytes(content + b"\nffff T vfs_read\n" + content)
    functions = KernelFunctions(path, (), path)
    assert "vfs_read" in functions.names()
    assert functions.find(["vfs_read"])["vfs_read"].addresses[-1] is not None


def test_a_line_may_lie_across_what_is_read_at_once(tmp_path: Path) -> None:
    """Every name of many, and every address."""
    names, first = [f"function_{number}" for number in range(60_000)], 0xFFFFFFFF81000000
    (tmp_path / "kallsyms").write_text(
        "".join(f"{first + number:016x} t {name}\n" for number, name in enumerate(names))
    )
    functions = KernelFunctions(tmp_path / "kallsyms", (), tmp_path)
    assert functions.names() == sorted(names)
    found = functions.find(names)
    assert [found[name].addresses for name in names] == [(first + number,) for number in range(len(names))]


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("comn", ["comm", "pid", "command"], ["comm", "command"]),
        ("x", [], []),
        ("zzzz", ["comm"], []),
        ("TCP_SENDMSG", ["tcp_sendmsg"], []),
        ("tcp_sndmsg", ["tcp_sendmsg"] * 3 + ["udp_sendmsg"], ["tcp_sendmsg", "udp_sendmsg"]),
    ],
)
def test_near_names(name: str, names: list[str], found: list[str]) -> None:
    """The best first, each once; none where none is like it."""
    assert nearest(name, names) == found
