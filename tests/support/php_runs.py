# SPDX-License-Identifier: Apache-2.0
"""PHP targets at work under an agent, from the command line and behind fpm; `truth` judges what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.runtimes.php.detect import NUMBER
from tests.support import phps, truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.pythons import Interpreter, Program
from tests.support.require import require
from tests.support.truth import Said

TARGETS = truth.TARGETS / "php"
SECONDS = 60.0
OPCACHE = ("opcache",)
FUNCTION_JIT = (*OPCACHE, "opcache.jit=function", "opcache.jit_buffer_size=64M")
# Everything is compiled at the second turn, and so are the ways out of it.
TRACING_JIT = (
    *OPCACHE,
    "opcache.jit=tracing",
    "opcache.jit_buffer_size=64M",
    *(f"opcache.jit_hot_{each}=2" for each in ("loop", "func", "return", "side_exit")),
)


@dataclass(frozen=True)
class Outcome:
    """What a target said, and what the spans say. `opcache`, `jit`: whether they were at work."""

    said: list[Said]
    spans: dict[str, list[ReceivedSpan]]
    all_spans: list[ReceivedSpan]
    accounting: dict[str, Any]
    opcache: bool
    jit: bool


def wanted_phps() -> list[str]:
    """Labels of the PHPs that tests run against: oldest, newest, one between; all for KERNELSPAN_MATRIX."""
    found = phps.labels()
    return found if os.environ.get("KERNELSPAN_MATRIX") else [found[0], found[1], found[-1]]


def needed(label: str, program: str = "/usr/bin/php") -> Interpreter:
    """The PHP with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return phps.interpreter(label, program)
    except phps.PhpsError as error:
        require("kernel", False, str(error))
        raise


@contextlib.contextmanager
def folder_in(php: Interpreter) -> Iterator[tuple[Path, str]]:
    """A folder in its root with all targets: as seen from here, and from there."""
    assert php.root is not None
    with tempfile.TemporaryDirectory(dir=php.root / "tmp") as made:
        for file in TARGETS.glob("*.php"):
            shutil.copy(file, made)
        yield Path(made), f"/{Path(made).relative_to(php.root)}"


@contextlib.contextmanager
def started(
    php: Interpreter, target: str, *arguments: str, settings: Sequence[str] = ()
) -> Iterator[tuple[Program, Path]]:
    """A target of the command line, ready; and where it says what it did. `settings`: of php.ini, or OPCACHE."""
    plain = [each for each in settings if "=" in each]
    options = phps.options(version_of(php), *plain, opcache=OPCACHE[0] in settings)
    with folder_in(php) as (folder, inside):
        command = [*options, f"{inside}/{target}.php", f"{inside}/said", *arguments]
        with php.running(*command) as program:
            assert program.line() == "ready"
            yield program, folder / "said"


def version_of(php: Interpreter) -> str:
    """As Debian names it: 8.2."""
    return php.label.rpartition("-")[2]


def traced(php: Interpreter, target: str, *arguments: str, settings: Sequence[str] = (), at_once: int = 1) -> Outcome:
    """Runs so many of a target side by side, traced from the moment they are ready."""
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "spans.jsonl"
        running = [stack.enter_context(started(php, target, *arguments, settings=settings)) for _ in range(at_once)]
        with truth.open_app(output) as app:
            for program, _ in running:
                app.select(program.pid, "target")
            wait_for_walker(app)
            for program, _ in running:
                program.go_on()
            truth.run_until(app, lambda: all(program.started.poll() is not None for program, _ in running))
            app.end(10.0)
            accounting = app.accounting().as_json()
        for program, _ in running:
            assert program.started.stdout is not None
            assert program.started.wait() == 0, program.started.stdout.read()
        return outcome([out for _, out in running], output, accounting)


def outcome(said: Sequence[Path], output: Path, accounting: dict[str, Any]) -> Outcome:
    """What was said beside each of `said`, held against the spans in `output`."""
    messages = [json.loads(path.read_text()) for out in said for path in out.parent.glob(f"{out.name}.*.json")]
    spans = truth.read_spans(output)
    return Outcome(
        [each for out in said for each in truth.read_said(out)],
        truth.by_key(spans),
        spans,
        accounting,
        all(message["opcache"] for message in messages),
        all(message["jit"] for message in messages),
    )


def wait_for_walker(app: App) -> None:
    """Until PHP's walker is loaded: no session begins with it."""
    truth.run_until(app, lambda: app.session.walks(NUMBER))
    app.step(0.0)


# --- fpm ----------------------------------------------------------------------------------------------------------

_POOL = """
[global]
error_log = {inside}/fpm.log
daemonize = no
[www]
user = root
group = root
listen = {inside}/fpm.sock
pm = static
pm.max_children = {workers}
pm.max_requests = {requests}
catch_workers_output = yes
"""


@dataclass(frozen=True)
class Fpm:
    """A running fpm. `inside`: its folder as it sees it."""

    program: Program
    folder: Path
    inside: str

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "fpm.sock"

    def log(self) -> str:
        """What it has complained of."""
        return (self.folder / "fpm.log").read_text(errors="replace")


@contextlib.contextmanager
def fpm(php: Interpreter, *, workers: int, requests: int, settings: Sequence[str] = ()) -> Iterator[Fpm]:
    """fpm with so many workers, each ended after so many requests; it accepts them."""
    with folder_in(php) as (folder, inside):
        (folder / "fpm.conf").write_text(_POOL.format(inside=inside, workers=workers, requests=requests))
        plain = [each for each in settings if "=" in each]
        options = phps.options(version_of(php), *plain, opcache=OPCACHE[0] in settings)
        with php.running("-R", "-F", "-y", f"{inside}/fpm.conf", *options) as program:
            running = Fpm(program, folder, inside)
            deadline = time.monotonic() + SECONDS
            while not running.socket.exists():
                assert program.started.poll() is None, running.log()
                assert time.monotonic() < deadline, running.log()
                time.sleep(0.01)
            yield running
