# SPDX-License-Identifier: Apache-2.0
"""The same file in several containers: what is attached to once must be told to be one, and a copy another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compiled import compiled
from tests.support.require import require

PROGRAM = """
__attribute__((noinline)) int hit(int x) { __asm__ volatile(""); return x + 1; }
int main(void) { int sum = 0; for (int i = 0; i < 97; i++) sum = hit(sum); return sum != 97; }
"""
# Two containers of one image, each with its overlay; then the second changes its file.
SCRIPT = """
import json, os, subprocess, sys
from kernelspan_agent.process.symbols import where
from kernelspan_agent.process.symbols.functions import find_functions
from tests.support.uprobes import counted

def mount(kind, source, target, options=""):
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), source, target], check=True)

folder, program = sys.argv[1:]
mount("tmpfs", "none", folder)
os.makedirs(f"{folder}/image")
subprocess.run(["cp", program, f"{folder}/image/app"], check=True)
for name in ("a", "b"):
    for part in ("upper", "work", "merged"):
        os.makedirs(f"{folder}/{name}/{part}")
    options = f"lowerdir={folder}/image,upperdir={folder}/{name}/upper,workdir={folder}/{name}/work"
    mount("overlay", "overlay", f"{folder}/{name}/merged", options)

def of(name):
    with where.open_path("/app", f"{folder}/{name}/merged") as binary:
        (found,) = find_functions(binary, ["hit"])
        with counted(binary.attach_path, found.functions[0].offset) as counter:
            counts = []
            for each in ("a", "b"):
                subprocess.run([f"{folder}/{each}/merged/app"], check=True)
                counts.append(counter.count() - sum(counts))
        return binary.identity, counts

shared = of("a"), of("b")
os.utime(f"{folder}/b/merged/app")  # copied up
changed = of("a"), of("b")
os.chmod(f"{folder}/b/merged/app", 0o700)  # changed again: still the same copy
again = of("b")
print(json.dumps([[[repr(found), counts] for found, counts in each] for each in (shared, changed, (again,))]))
for name in ("a/merged", "b/merged", ""):
    subprocess.run(["umount", f"{folder}/{name}"], check=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[str, list[int]]]]:
    """What the script says: identities, and how often a probe by way of one container saw each of two run."""
    folder = tmp_path_factory.mktemp("containers")
    program = compiled(folder, PROGRAM, "-O1", "-static")
    (folder / "mounts").mkdir()
    command = ["unshare", "-m", sys.executable, "-c", SCRIPT, str(folder / "mounts"), str(program)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(root)}
    )
    require("kernel", "unknown filesystem type 'overlay'" not in done.stderr, "this kernel has no overlayfs")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_a_file_of_two_containers_is_one(told: list[list[tuple[str, list[int]]]]) -> None:
    """The kernel counts both by way of either, and their identity is the same."""
    (first, by_first), (second, by_second) = told[0]
    assert by_first == by_second == [97, 97]
    assert first == second


def test_a_copy_is_another(told: list[list[tuple[str, list[int]]]]) -> None:
    """Each counts its own, and the copy has an identity of its own that stays."""
    (first, by_first), (second, by_second) = told[1]
    assert (by_first, by_second) == ([97, 0], [0, 97])
    assert first == told[0][0][0]
    assert second != first
    assert told[2][0][0] == second
