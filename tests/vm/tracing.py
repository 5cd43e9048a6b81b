# SPDX-License-Identifier: Apache-2.0
"""One run of `kernelspan run` on the target, here or in a guest, and what of it must be the same everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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
    done = subprocess.run(
        [*command, "--", "/usr/bin/python3", str(FOLDER / "target.py"), str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    (folder / "status").write_text(f"{done.returncode}\n{done.stdout}")
    shutil.rmtree(work)


def read(mechanism: str, results: Path) -> Traced:
    """What `start` left there."""
    folder = results / mechanism
    status, _, words = (folder / "status").read_text().partition("\n")
    lines = (folder / "spans").read_text().splitlines() if (folder / "spans").exists() else []
    report = json.loads((folder / "report").read_text()) if (folder / "report").exists() else {}
    operations: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        for span in spans_of(json.loads(line)):
            function = str(span.attributes.get("code.function.name", ""))
            if function.startswith("__main__.") and not function.endswith(">") and span.name.startswith(_KINDS):
                told = {k: v for k, v in span.attributes.items() if not k.startswith(_OF_ONE_RUN)}
                text = json.dumps(told, sort_keys=True).replace(str(folder), "FOLDER")
                operations[span.name, span.status, text] += 1
    return Traced(int(status), words, report, operations)
