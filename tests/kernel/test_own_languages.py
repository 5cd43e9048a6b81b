# SPDX-License-Identifier: Apache-2.0
"""Probes on functions of C++ and Go: names as they are written, exceptions that pass, stacks and threads that change."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.own.user_functions import plan_in
from kernelspan_agent.process.symbols.where import open_path
from kernelspan_api.userprobes import UserProbe
from tests.support import own
from tests.support.generators import compiled_cxx, compiled_go
from tests.support.own import argument, function, returned

N = 97


@pytest.fixture
def cxx() -> Path:
    return compiled_cxx("own_targets")


def test_exceptions_pass_what_is_probed(cxx: Path, tmp_path: Path) -> None:
    """Each third call is left by an exception: the program catches it as ever, and no span is made of it."""
    ran = own.run(
        tmp_path,
        [
            function("thrower", cxx, argument(0, "Int64"), returns=returned()),
            function(
                "quote",
                cxx,
                argument(1, "Int64"),
                argument(2, "String"),
                symbols=("shop::Engine::quote",),
                returns=returned(),
            ),
            function("mangled", cxx, argument(1, "Int64"), symbols=("_ZN4shop6Engine5quoteElPKc",), mode="Event"),
            function("total", cxx, argument(1, "Int64"), symbols=("shop::Engine::total*",), returns=returned()),
        ],
        cxx,
        str(N),
    )
    assert ran.status == 0, ran.stderr
    thrown = len(range(2, N, 3))
    assert int(ran.stdout) == thrown
    found = own.by_probe(ran)
    passed = [i for i in range(N) if i % 3 != 2]
    assert own.values(found["thrower"], "a0", "r") == [(i, i * 1000) for i in passed]
    assert own.values(found["quote"], "a1", "a2", "r") == [(i, "who", i * 1000) for i in passed]
    assert own.values(found["mangled"], "a1") == list(range(N))
    assert own.values(found["total"], "a1", "r") == [(i, 2 * i + 30) for i in range(N) for _ in range(2)]
    assert ran.balance["seen"] == 5 * N
    assert sum(ran.balance["dropped"].values()) == 2 * thrown


def test_exceptions_are_not_risked(cxx: Path, tmp_path: Path) -> None:
    """Where a return can be had by a uretprobe alone, a program that has exceptions is left in peace."""
    offset = next(int(line.split()[0], 16) for line in _symbols(cxx) if line.endswith(" T thrower"))
    target = {"path": str(cxx), "offsets": [offset]}  # nobody says how long the function is
    probe = {"name": "by-offset", "uprobe": target, "args": [argument(0, "Int64")], "returns": returned()}
    ran = own.run(tmp_path, [probe], cxx, str(N))
    assert "UretprobeUnsafe" in ran.stderr
    assert ran.status in (0, 3)  # nothing else is to be traced
    assert own.by_probe(ran) == {}
    with open_path(str(cxx)) as binary, pytest.raises(MachineError, match="exception") as refused:
        plan_in(msgspec.convert(probe, UserProbe), binary)
    assert refused.value.reason == "UretprobeUnsafe"


def _symbols(path: Path) -> list[str]:
    return subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("options", [(), ("-ldflags=-s -w",)], ids=["whole", "stripped"])
def test_go(options: tuple[str, ...], tmp_path: Path) -> None:
    """Strings and slices in registers; calls that go on in other threads, on stacks that are moved, left by panics."""
    program = compiled_go("own_go", *options)
    ran = own.run(
        tmp_path,
        [
            function(
                "order",
                program,
                argument(0, "Int64"),
                argument(1, "GoString"),
                argument(3, "UInt32"),
                argument(4, "GoSlice"),
                symbols=("main.order",),
                returns=returned(),
            ),
            function("grow", program, argument(0, "Int64"), symbols=("main.grow",), returns=returned()),
            function("panics", program, argument(0, "Int64"), symbols=("main.panics",), returns=returned()),
        ],
        program,
        str(N),
    )
    assert ran.status == 0, ran.stderr
    assert ran.stdout == b"done\n"
    found = own.by_probe(ran)
    orders = [(i, f"order {i}", 4000000000, "tags", i * 1000) for i in range(N)]
    assert sorted(own.values(found["order"], "a0", "a1", "a3", "a4", "r")) == orders
    depths = Counter((n, n * 1000) for worker in range(8) for n in range(101 + worker))
    assert Counter(own.values(found["grow"], "a0", "r")) == depths, ran.balance
    assert own.values(found["panics"], "a0", "r") == [(i, i * 1000) for i in range(0, N, 2)]
    assert ran.balance["seen"] == 2 * N + depths.total()
    assert sum(ran.balance["dropped"].values()) == N // 2
