# SPDX-License-Identifier: Apache-2.0
"""Programs that `kernelspan run` is given, also by way of another program, while the agent gets no time at all: all their frames are known."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from kernelspan_agent.process import procfs
from kernelspan_agent.resolve.images import image_of
from kernelspan_agent.resolve.looks import RETRY_NS
from kernelspan_agent.runtimes import registry
from tests.support import runs, truth, venvs
from tests.support.otlp_json import ReceivedSpan
from tests.support.php_runs import needed
from tests.support.require import require

pytestmark = pytest.mark.root
WAITS = 'echo waiting; read go; "$@"; echo $?; read go'
PYTHON = """import os
def look():
    os.path.exists("/kernelspan-truth/x")
for _ in range(50):
    look()
"""
PHP = """<?php
function look() {
    clearstatcache();
    file_exists("/kernelspan-truth/x");
}
for ($i = 0; $i < 50; $i++) {
    look();
}
"""
NODE = """const fs = require("fs");
function look() {
    fs.existsSync("/kernelspan-truth/x");
}
for (let i = 0; i < 50; i++) {
    look();
}
console.log(0);
fs.readSync(0, Buffer.alloc(1)); // the names of its functions are read out of its memory
"""


def _php() -> tuple[list[str], dict[str, str]]:
    php = needed("bookworm-8.2")  # of the suite that this machine's libraries are of
    assert php.root is not None
    program, environ = str(php.root / "usr/bin/php8.2"), {"LD_LIBRARY_PATH": str(php.root / "usr/lib/x86_64-linux-gnu")}
    runs_here = subprocess.run([program, "-n", "-v"], env=environ, capture_output=True, check=False).returncode == 0
    require("kernel", runs_here, f"{program} does not run outside of its root")
    return [program, "-n"], environ


def looks(span: ReceivedSpan) -> bool:
    """Whether it is one of those that the script makes."""
    return span.attributes.get("file.path") == "/kernelspan-truth/x"


@pytest.mark.parametrize("which", ["python", "venv", "php", "node"])
def test_the_agent_stands_still(which: str, tmp_path: Path) -> None:
    """From before the program begins until it has ended, or has done all: the kernel alone walks it."""
    environ: dict[str, str] = {}
    if which == "php":
        command, environ = _php()
    elif which == "node":
        require("kernel", shutil.which("node") is not None, "no node (tools/apt test)")
        command = ["node"]
    elif which == "venv":  # of a Python whose program may be linked with a libpython
        folder = Path(runs.__file__).parent
        command = [str(venvs.library_venv(folder / "dns_venv.txt") / "bin" / "python")]
    else:
        command = [runs.SYSTEM_PYTHON, "-S"]
    script = tmp_path / "script"
    script.write_text({"php": PHP, "node": NODE}.get(which, PYTHON))
    requests = [
        {"protocol": "DNS", "roles": ["Client"]}
    ]  # which has all calls seen: libraries are known as they are mapped
    wanted = {"requests": requests} if which == "venv" else {}
    profile = runs.profile(tmp_path, files={"operations": ["Stat"]}, code={"stackTrace": "Attribute"}, **wanted)
    wrapped = ["sh", "-c", WAITS, "sh", *command, str(script)]
    pipes = {"stdin": subprocess.PIPE, "env": {**os.environ, **environ}}
    with runs.agent(tmp_path, profile, *wrapped, **pipes) as agent:
        stdin, stdout = agent.process.stdin, agent.process.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == b"waiting\n"
        agent.process.send_signal(signal.SIGSTOP)
        try:
            stdin.write(b"\n")
            stdin.flush()
            assert stdout.readline() == b"0\n"
        finally:
            agent.process.send_signal(signal.SIGCONT)
        agent.wait_for_spans(50, looks)  # before the end of standard input, which ends node
        ran = agent.finish()
    looked = list(filter(looks, ran.operations))
    assert len(looked) >= 50
    missing = Counter(str(span.attributes.get("kernelspan.code.missing", "")) for span in looked)
    assert missing == {"": len(looked)}, (missing, ran.report["stacks"])
    assert all("look (" in str(span.attributes["code.stacktrace"]) for span in looked)


SLOW = """import os, select, sys
def look():
    os.path.exists("/kernelspan-truth/x")
while not select.select([sys.stdin], [], [], 0.01)[0]:
    look()
"""


def test_a_program_that_takes_seconds_to_begin(tmp_path: Path) -> None:
    """Longer than a program without a runtime is looked at: it is walked all the same. The linker waits for a library that is a pipe."""
    pipe, script = tmp_path / "pipe.so", tmp_path / "script"
    os.mkfifo(pipe)
    script.write_text(SLOW)
    folder = Path(runs.__file__).parent
    python = venvs.library_venv(folder / "dns_venv.txt") / "bin" / "python"
    profile = runs.profile(tmp_path, files={"operations": ["Stat"]}, code={"stackTrace": "Attribute"})
    command = ["env", f"LD_PRELOAD={pipe}", python, script]
    with runs.agent(tmp_path, profile, *command, stdin=subprocess.PIPE) as agent:
        time.sleep(sum(RETRY_NS) / 1e9 + 1)
        pipe.open("wb").close()  # no library after all: it goes on without
        agent.wait_for_spans(1, lambda span: looks(span) and "look (" in str(span.attributes.get("code.stacktrace")))
        agent.finish()


AGAIN = """import os, sys
sys.stdout.write("ready\\n")
sys.stdout.flush()
os.read(0, 1)
os.execv(sys.executable, [sys.executable, sys.argv[0]])
"""


def test_another_image_since_it_was_looked_at() -> None:
    """A program that has become itself again, elsewhere: where its runtime lay before says nothing of where its file has it."""
    python = truth.needed("muslshared-3.11")  # its libpython lies elsewhere each time
    with python.script(AGAIN) as script, python.running(script) as program:
        assert program.line() == "ready"
        process = procfs.open_process(program.pid)
        found = registry.detect(process)
        assert isinstance(found, registry.DetectedRuntime)
        image = image_of(process, found)
        assert image is not None
        program.go_on()
        assert program.line() == "ready"
        assert procfs.is_alive(process)  # the same process, to everybody
        assert image_of(process, found) is None
        again = registry.detect(process)
        assert isinstance(again, registry.DetectedRuntime)
        assert again.address != found.address
        assert image_of(process, again) == image
