# SPDX-License-Identifier: Apache-2.0
"""One run of `kernelspan run` on the target, here or in a guest, and what of it must be the same everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.probes.mechanisms import MECHANISMS, VARIABLE
from tests.support.otlp_json import spans_of

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SECONDS = 600.0  # emulated, and it compiles
PROFILES = {
    "RawTracepoint": FOLDER / "everything.yaml",
    "Tracepoint": FOLDER / "few.yaml",
    "Fentry": FOLDER / "few.yaml",
}
_KINDS = ("file.", "tcp.", "unix.", "process.", "wait.sleep")
_WAITING = ("wait_to_begin", "wait_to_end")  # the target's functions
# Numbers of one run.
_OF_ONE_RUN = ("thread.", "process.pid", "kernelspan.child.pid")


@dataclass(frozen=True, slots=True)
class Traced:
    """`operations`: name, status and attributes of each operation of the target's own functions, and how often."""

    status: int
    words: str
    report: dict[str, Any]
    operations: Counter[tuple[str, str, str]]


def start(mechanism: str, results: Path) -> None:
    """Traces the target by this mechanism, with the profile it is for; all that comes of it is below `results`."""
    folder = results / mechanism
    work = folder / "work"
    work.mkdir(parents=True)
    command = [str(Path(sys.executable).with_name("kernelspan")), "run", "-q", "-f", str(PROFILES[mechanism])]
    command += ["--output", str(folder / "spans"), "--report", str(folder / "report")]
    environ = {**os.environ, VARIABLE: mechanism} if mechanism in {each.name for each in MECHANISMS} else None
    with (
        (folder / "words").open("wb") as words,
        subprocess.Popen(
            [*command, "--", "/usr/bin/python3", str(FOLDER / "target.py"), str(work)],
            stdout=words,
            stderr=words,
            env=environ,
        ) as started,
    ):
        try:
            for function in _WAITING:
                _await(started, folder / "spans", work / function)
            started.wait(SECONDS)
        finally:
            started.kill()
    (folder / "status").write_text(str(started.returncode))
    shutil.rmtree(work)


def _await(started: subprocess.Popen[bytes], output: Path, sign: Path) -> None:
    """Gives the target a sign, named as its function that waits for it, when that was seen to wait.

    Raises TimeoutError where it is not for too long: what would be compared then is of a program that nobody knew yet.
    """
    end = time.monotonic() + SECONDS
    while started.poll() is None and not _waits(output, f"__main__.{sign.name}"):
        if time.monotonic() > end:
            raise TimeoutError(f"the target's {sign.name} was not seen in {SECONDS:g} s")
        time.sleep(0.5)
    sign.touch()


def _waits(output: Path, function: str) -> bool:
    lines = output.read_text().splitlines() if output.exists() else []
    spans = (span for line in lines if function in line for span in spans_of(json.loads(line)))
    return any(span.name == "wait.sleep" and span.attributes.get("code.function.name") == function for span in spans)


def differences(missing: Counter[tuple[str, str, str]], more: Counter[tuple[str, str, str]]) -> Counter[str]:
    """What is there in place of each missing operation: the one of its name that differs least, and in what; or nothing."""
    found, rest = Counter[str](), list(more.elements())
    for name, _, text in missing.elements():
        changes = {each: _changes(json.loads(text), json.loads(each[2])) for each in rest if each[0] == name}
        if changes:
            nearest = min(changes, key=lambda each: len(changes[each]))
            rest.remove(nearest)
        found[f"{name}: {changes[nearest] if changes else 'nothing'}"] += 1
    return found


def _changes(here: dict[str, Any], there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = here.keys() | there.keys()
    return {name: (here.get(name), there.get(name)) for name in sorted(names) if here.get(name) != there.get(name)}


def read(mechanism: str, results: Path) -> Traced:
    """What `start` left there."""
    folder = results / mechanism
    status, words = ((folder / name).read_text() for name in ("status", "words"))
    lines = (folder / "spans").read_text().splitlines() if (folder / "spans").exists() else []
    report = json.loads((folder / "report").read_text()) if (folder / "report").exists() else {}
    operations: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        for span in spans_of(json.loads(line)):
            function = str(span.attributes.get("code.function.name", ""))
            module, _, name = function.rpartition(".")
            ours = module == "__main__" and not name.endswith(">") and name not in _WAITING
            if ours and span.name.startswith(_KINDS):
                told = {k: v for k, v in span.attributes.items() if not k.startswith(_OF_ONE_RUN)}
                text = json.dumps(told, sort_keys=True).replace(str(folder), "FOLDER")
                operations[span.name, span.status, text] += 1
    return Traced(int(status), words, report, operations)
