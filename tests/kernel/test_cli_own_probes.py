# SPDX-License-Identifier: Apache-2.0
"""What `run`, `check` and `render` say of the user's own probes: what failed and why, what never came, how long calls took."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.cli import reference
from tests.support.runs import KERNELSPAN, SYSTEM_PYTHON, check_balance, profile

TIMEOUT_SECONDS = 300
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
LOOK: dict[str, Any] = {
    "name": "look",
    "kprobe": {"call": "newfstatat", "syscall": True},
    "args": [{"index": 1, "type": "String", "attribute": "looked.at"}],
    "match": [{"args": [{"index": 1, "operator": "Prefix", "values": ["/mark/"]}]}],
}
NO_FUNCTION: dict[str, Any] = {"name": "no-function", "kprobe": {"call": "tcp_sendmsgs"}}
NO_SYMBOL: dict[str, Any] = {"name": "no-symbol", "uprobe": {"path": LIBC, "symbols": ["mallocs"]}}
NO_FILE: dict[str, Any] = {"name": "no-file", "uprobe": {"path": "/opt/none.so", "symbols": ["none"]}}
NO_USDT: dict[str, Any] = {
    "name": "no-usdt",
    "mode": "Event",
    "usdt": {"path": "Auto", "provider": "none", "probe": "none"},
}
PROGRAM = "import os\nfor n in range(7):\n    try: os.stat(f'/mark/{n}')\n    except OSError: pass\n"


def kernelspan(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KERNELSPAN, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )


def blocks(said: str) -> dict[str, list[str]]:
    """Lines about each probe, in their order."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in said.splitlines():
        if line.startswith("kernelspan: probe "):
            name = line.removeprefix("kernelspan: probe ").split()[0].removesuffix(":")
        elif not line.startswith("  "):
            name = ""
        if name:
            found.setdefault(name, []).append(line)
    return found


def test_what_fails_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Each once, with its reason; the probe that works has all of its calls, in a histogram and in the report."""
    path, report = profile(tmp_path, probes=[LOOK, NO_FUNCTION, NO_SYMBOL, NO_FILE, NO_USDT]), tmp_path / "report"
    done = kernelspan("run", "-f", path, "--histogram", "--report", report, "--", SYSTEM_PYTHON, "-S", "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    said = blocks(done.stderr)
    assert set(said) == {"no-function", "no-symbol", "no-file", "no-usdt"}
    assert said["no-function"][0].startswith("kernelspan: probe no-function: FunctionNotFound: ")
    assert "tcp_sendmsg" in " ".join(said["no-function"])  # the nearest name
    assert said["no-symbol"][0].startswith("kernelspan: probe no-symbol: SymbolNotFound: ")
    assert "malloc" in " ".join(said["no-symbol"])
    for name in ("no-file", "no-usdt"):
        assert said[name][0].startswith(f"kernelspan: probe {name} was never attached: ")
        assert done.stderr.index(f"probe {name} was") > done.stderr.index("operations")  # at the end
    for name in ("no-function", "no-symbol"):
        assert done.stderr.index(f"probe {name}:") < done.stderr.index("operations")
    found = json.loads(report.read_text())
    check_balance(found)
    probes = {each["name"]: each for each in found["probes"]}
    assert {name: each["state"] for name, each in probes.items()} == {
        "look": "Attached", "no-function": "Failed", "no-symbol": "Failed", "no-file": "Pending", "no-usdt": "Pending",
    }  # fmt: skip
    assert sum(each["count"] for each in probes["look"]["durations"]) == 7 == found["operations"]["exported"]
    assert "look   7 calls" in done.stderr
    assert "|####" in done.stderr


def test_no_histogram_in_a_pipe(tmp_path: Path) -> None:
    """Unless it is asked for."""
    path = profile(tmp_path, probes=[LOOK])
    done = kernelspan("run", "-f", path, "--output", tmp_path / "spans", "--", SYSTEM_PYTHON, "-S", "-c", PROGRAM)
    assert done.returncode == 0
    assert "operations" in done.stderr
    assert " calls" not in done.stderr


@pytest.mark.parametrize("probes", [[NO_FUNCTION], [NO_FUNCTION, NO_SYMBOL]], ids=["one", "two"])
def test_nothing_can_be_attached(tmp_path: Path, probes: list[dict[str, Any]]) -> None:
    """Status 3 with the reasons, and the command has not run."""
    left = tmp_path / "left"
    done = kernelspan("run", "-f", profile(tmp_path, probes=probes), "--", "touch", left)
    assert done.returncode == 3
    assert set(blocks(done.stderr)) == {each["name"] for each in probes}
    assert "kernelspan: FunctionNotFound: nothing to trace: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not left.exists()
    checked = kernelspan("check", "-f", profile(tmp_path, probes=probes))
    assert checked.returncode == 3
    assert checked.stdout.splitlines()[-1] == "kernelspan run cannot work here"


def test_a_group_beside_is_enough(tmp_path: Path) -> None:
    """A profile whose probes all fail goes on with its operations."""
    path = profile(tmp_path, probes=[NO_FUNCTION], files={"operations": ["Stat"]})
    done = kernelspan("run", "-f", path, "-q", "--output", tmp_path / "spans", "--", "stat", "/mark")
    assert set(blocks(done.stderr)) == {"no-function"}
    assert (tmp_path / "spans").read_text()


def test_check_tries_each(tmp_path: Path) -> None:
    """The documented keys; what would be attached, what waits, what cannot be."""
    path = profile(tmp_path, probes=[LOOK, NO_FUNCTION, NO_SYMBOL, NO_FILE, NO_USDT])
    done = kernelspan("check", "-f", path, "--json")
    assert done.returncode == 0, done.stdout
    probes = {each["name"]: each for each in json.loads(done.stdout)["profile"]["probes"]}
    (text,) = (text for key, text in reference._KEYS["check", "Keys of `--json`:"] if key == "profile.probes[]")
    for each in probes.values():
        assert all(key in text for key in set(each) - {"others"})
    assert {name: (each["state"], each["reason"]) for name, each in probes.items()} == {
        "look": ("Attached", ""),
        "no-function": ("Failed", "FunctionNotFound"),
        "no-symbol": ("Failed", "SymbolNotFound"),
        "no-file": ("Pending", "BinaryNotFound"),
        "no-usdt": ("Pending", ""),
    }
    assert probes["look"]["programs"] == 2
    assert probes["look"]["places"] == 2


def test_render_has_every_probe(tmp_path: Path) -> None:
    """The C of those that this machine can plan; for the others why not. Nothing of the profile's texts is in it."""
    tricky = {**LOOK, "match": [{"args": [{"index": 1, "operator": "Equal", "values": ['*/ int pwned; /* "\\']}]}]}
    done = kernelspan("render", "-f", profile(tmp_path, probes=[tricky, NO_SYMBOL, NO_FILE, NO_USDT]))
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("/* ===== own probe ")[1:]
    assert [part.split()[0] for part in parts] == ["look", "no-symbol", "no-file", "no-usdt"]
    assert "int ks_own_enter(void *ctx)" in parts[0]
    assert "int ks_own_exit(void *ctx)" in parts[0]
    assert "pwned" not in done.stdout
    assert "not known here: SymbolNotFound: " in parts[1]
    assert "not known here: BinaryNotFound: " in parts[2]
    assert "known only with the process" in parts[3]


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    """A FIFO, a folder, a huge sparse file, a text, a crafted ELF file: each told at the start, none is waited for."""
    places = {name: tmp_path / name for name in ("fifo", "folder", "sparse", "text", "crafted", "link")}
    os.mkfifo(places["fifo"])
    places["folder"].mkdir()
    with places["sparse"].open("wb") as file:
        file.truncate(1 << 40)
    places["text"].write_text("#!/bin/sh\n")
    head = bytearray(Path(LIBC).read_bytes()[:4096])
    head[40:48] = (1 << 62).to_bytes(8, "little")  # e_shoff
    places["crafted"].write_bytes(bytes(head))
    places["link"].symlink_to("link")
    probes = [{"name": name, "uprobe": {"path": str(path), "symbols": ["main"]}} for name, path in places.items()]
    left = tmp_path / "left"
    done = kernelspan("run", "-f", profile(tmp_path, probes=probes), "--", "touch", left)
    assert done.returncode == 3, done.stderr
    said = blocks(done.stderr)
    assert set(said) == set(places)
    assert all(each[0].split(": ")[2] in {"BinaryNotFound", "SymbolStripped"} for each in said.values()), said
    assert "FIFO" in said["fifo"][0]
    assert "directory" in said["folder"][0]
    assert "Traceback" not in done.stderr
    assert not left.exists()


def test_as_many_as_a_profile_may_have_all_fail(tmp_path: Path) -> None:
    """A block each, and the group beside goes on."""
    probes = [{"name": f"p{number}", "kprobe": {"call": f"no_such_function_{number}"}} for number in range(32)]
    spans = tmp_path / "spans"
    path = profile(tmp_path, probes=probes, files={"operations": ["Stat"]})
    done = kernelspan("run", "-f", path, "-q", "--output", spans, "--", "stat", "/")
    assert done.returncode == 0
    assert len(blocks(done.stderr)) == 32
    assert spans.read_text()
