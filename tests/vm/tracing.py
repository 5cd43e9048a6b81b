# SPDX-License-Identifier: Apache-2.0
"""One run of `kernelspan run` on the target, here or in a guest, and what of it must be the same everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.otlp_json import spans_of

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SECONDS = 600.0  # emulated, and it compiles
PROFILES = {
    "RawTracepoint": ROOT / "examples" / "05-everything.yaml",
    "Tracepoint": FOLDER / "few.yaml",
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
    """Traces the target with the profile that this mechanism is chosen for; all that comes of it is below `results`."""
    folder = results / mechanism
    work = folder / "work"
    work.mkdir(parents=True)
    command = [str(Path(sys.executable).with_name("kernelspan")), "run", "-q", "-f", str(PROFILES[mechanism])]
    command += ["--output", str(folder / "spans"), "--report", str(folder / "report")]
    with (
        (folder / "words").open("wb") as words,
        subprocess.Popen(
            [*command, "--", "/usr/bin/python3", str(FOLDER / "target.py"), str(work)], stdout=words, stderr=words
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
    """Gives the target a sign, named as its function that waits for it, when that was seen to wait, or after too long a time."""
    end = time.monotonic() + SECONDS
    while started.poll() is None and time.monotonic() < end and not _waits(output, f"__main__.{sign.name}"):
        time.sleep(0.5)
    sign.touch()


def _waits(output: Path, function: str) -> bool:
    lines = output.read_text().splitlines() if output.exists() else []
    spans = (span for line in lines if function in line for span in spans_of(json.loads(line)))
    return any(span.name == "wait.sleep" and span.attributes.get("code.function.name") == function for span in spans)


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
