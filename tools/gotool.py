# SPDX-License-Identifier: Apache-2.0
"""Running Go: where it is, which version, in which environment, with progress while it works.

The module and build caches are the user's own (GOMODCACHE, GOCACHE, GOPROXY are left alone); what would change the
binaries without changing their key (GOFLAGS, GOWORK, cgo) is set here.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.errors import ToolError

Say = Callable[[str], None]

# Where Go's own installer and Debian put it without touching PATH.
_USUAL_PLACES = (Path("/usr/local/go/bin/go"), Path("/usr/lib/go/bin/go"))
_PROGRESS_SECONDS = 10.0
_TAIL_LINES = 40
_PIPE_BYTES = 1 << 16
_VERSION_TIMEOUT_SECONDS = 300  # GOTOOLCHAIN=auto may fetch a toolchain first


@dataclass(frozen=True, slots=True)
class Go:
    """The go command, what it builds with and for (`version` like go1.26.1), and the environment to run it in."""

    command: Path
    version: str
    os: str
    arch: str
    environment: Mapping[str, str]


@dataclass(slots=True)
class _Progress:
    downloaded: int = 0
    compiled: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))


def find_go(environment: Mapping[str, str], folder: Path) -> Go:
    """Go as `folder`'s go.mod would use it. Raises ToolError if there is none, or none that is new enough."""
    command = shutil.which("go", path=environment.get("PATH", "")) or next(
        (str(place) for place in _USUAL_PLACES if os.access(place, os.X_OK)), None
    )
    if command is None:
        raise ToolError(
            "Go is not installed: no `go` in PATH and none in " + ", ".join(str(p.parent) for p in _USUAL_PLACES),
            hint="install Go (its version: the `go` line of tools/*/go.mod) and put it into PATH",
        )
    path = f"{Path(command).parent}{os.pathsep}{environment.get('PATH', '')}"
    settings = {"PATH": path, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false -mod=readonly"}
    full = {**environment, **settings}
    try:
        answer = subprocess.run(
            [command, "env", "GOVERSION", "GOOS", "GOARCH"],
            cwd=folder,
            env=full,
            capture_output=True,
            text=True,
            check=False,
            timeout=_VERSION_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{command} does not run: {error}") from error
    values = answer.stdout.split()
    if answer.returncode or len(values) != 3:
        raise ToolError(
            f"`{command} env` failed: {(answer.stderr or answer.stdout).strip()[-500:]}",
            hint="the `go` line of tools/*/go.mod names the oldest version that works",
        )
    version, target_os, target_arch = values
    return Go(Path(command), version, target_os, target_arch, full)


def run(
    go: Go, arguments: Sequence[str], folder: Path, label: str, log: Path, say: Say, lock: Sequence[int] = ()
) -> None:
    """Runs one command (a leading `go` is ours) in the folder, adds its output to the log, reports while it works.

    `lock`: descriptors of locks that the command holds too, so that they outlast us if we are killed before it ends.

    Raises ToolError with the end of the output if it fails; the process is gone when this returns or raises.
    """
    command = [str(go.command) if arguments[0] == "go" else arguments[0], *arguments[1:]]
    started = time.monotonic()
    progress = _Progress()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(go.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=lock,
        )
    except OSError as error:
        raise ToolError(f"{label}: `{arguments[0]}` does not run: {error}") from error
    try:
        _follow(process, progress, log, lambda: say(_state(label, started, progress)))
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
    if process.returncode:
        tail = "\n".join(progress.tail)
        raise ToolError(
            f"{label}: `{' '.join(arguments)}` ended with {process.returncode}:\n{tail}",
            hint=f"the whole output is in {log}",
        )


def _follow(process: subprocess.Popen[bytes], progress: _Progress, log: Path, report: Callable[[], None]) -> None:
    assert process.stdout is not None
    pending = b""
    next_report = time.monotonic() + _PROGRESS_SECONDS
    with log.open("ab") as sink, selectors.DefaultSelector() as selector, process.stdout as stream:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if selector.select(max(0.0, next_report - time.monotonic())):
                chunk = os.read(stream.fileno(), _PIPE_BYTES)
                sink.write(chunk)
                *lines, pending = (pending + chunk).split(b"\n")
                _count(progress, [*lines, pending] if not chunk else lines)
                if not chunk:
                    return
            if time.monotonic() >= next_report:
                report()
                next_report = time.monotonic() + _PROGRESS_SECONDS


def _count(progress: _Progress, lines: Sequence[bytes]) -> None:
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip()
        if line.startswith("go: downloading "):
            progress.downloaded += 1
        elif line and " " not in line:  # `go build -v` names each package on a line of its own
            progress.compiled += 1
        elif line:
            progress.tail.append(line)


def _state(label: str, started: float, progress: _Progress) -> str:
    return (
        f"{label}: {time.monotonic() - started:.0f} s, "
        f"{progress.downloaded} modules fetched, {progress.compiled} packages compiled"
    )
