# SPDX-License-Identifier: Apache-2.0
"""Docker as the project uses it: the daemon that runs here, else one of our own that ends with its last user.

Our own has its data below the user's cache folder, its socket and pid file below /run, and nothing in common with a
daemon that the machine may start later. Nothing here touches an image or a container that is not named by a caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.build import cache_folder
from tools.errors import ToolError
from tools.gotool import Say

RUN = Path("/run/kernelspan-docker")
_RUNC_WRAPPER = Path(__file__).with_name("runc")
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2
_TIMEOUT_SECONDS = 900.0  # an image of a few hundred MB on a slow disk
_TAIL_CHARACTERS = 3000
_STARTED: list[subprocess.Popen[bytes]] = []  # a daemon may outlive who started it: nobody waits for it in the end


@dataclass(frozen=True, slots=True)
class Docker:
    """A docker command line and the daemon that it speaks to."""

    command: str
    environment: Mapping[str, str]

    def run(self, *arguments: str, data: bytes | None = None, check: bool = True) -> str:
        """What the command prints. Raises ToolError with what it said if it fails, unless `check` is false."""
        ended = subprocess.run(
            [self.command, *arguments],
            env=dict(self.environment),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if check and ended.returncode:
            said = (ended.stderr or ended.stdout).decode("utf-8", "replace")[-_TAIL_CHARACTERS:]
            raise ToolError(f"docker {' '.join(arguments[:6])} ended with {ended.returncode}: {said}")
        return ended.stdout.decode("utf-8", "replace").strip()

    def image_id(self, name: str) -> str:
        """The id of an image, empty if there is none of that name."""
        return self.run("image", "ls", "--no-trunc", "--quiet", name).split("\n", 1)[0]

    def image_bytes(self, name: str) -> int:
        """How large an image is, unpacked."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", name))

    def import_root(self, folder: Path, name: str, changes: Sequence[str] = ()) -> None:
        """Makes an image of one layer out of a folder; `changes` are lines of a Dockerfile (ENTRYPOINT, ENV, LABEL)."""
        options = [part for change in changes for part in ("--change", change)]
        self.pipe(
            ["tar", "--numeric-owner", "--sort=name", "-C", str(folder), "-c", "."],
            ["import", *options, "-", name],
        )

    def pipe(self, source: Sequence[str], arguments: Sequence[str]) -> None:
        """Gives one command's output to docker. Raises ToolError if either fails."""
        with subprocess.Popen(
            source, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=dict(self.environment)
        ) as giving:
            taking = subprocess.run(
                [self.command, *arguments],
                env=dict(self.environment),
                stdin=giving.stdout,
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_SECONDS,
            )
        if taking.returncode or giving.returncode:
            said = (taking.stderr or taking.stdout).decode("utf-8", "replace")[-_TAIL_CHARACTERS:]
            raise ToolError(f"{source[0]} | docker {arguments[0]} ended with {taking.returncode}: {said}")

    def build(self, dockerfile: Path, context: Path, name: str, *options: str) -> None:
        """Builds an image from a Dockerfile and a folder."""
        self.run("build", "--quiet", "--file", str(dockerfile), "--tag", name, *options, str(context))


@contextlib.contextmanager
def docker(say: Say, environment: Mapping[str, str] | None = None, *, keep: bool = False) -> Iterator[Docker]:
    """A docker whose daemon answers as long as the block lasts; `keep`: and after it, if it is our own.

    Raises ToolError where there is none and none can be started.
    """
    environment = os.environ if environment is None else environment
    found = Docker(_command(), {**environment, "DOCKER_BUILDKIT": "1"})
    if _answers(found):
        yield found
        return
    own = Docker(found.command, {**found.environment, "DOCKER_HOST": f"unix://{RUN}/docker.sock"})
    with _in_use() as lock:
        if not _answers(own):
            _start(own, say)
        try:
            yield own
        finally:
            if not keep:
                _stop_if_last(lock, say)


def _command() -> str:
    """A docker command that can build by BuildKit: one with its plugin, or one so old that it needs none."""
    found = [path for path in (shutil.which("docker"), "/usr/bin/docker") if path and os.access(path, os.X_OK)]
    if not found:
        raise ToolError("there is no docker command", hint="tools/apt e2e installs it; it says what is missing")
    for path in found:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\d+)", said)
        old = version is not None and int(version[1]) < 23  # from there on `docker build` asks for the plugin
        if old or not subprocess.run([path, "buildx", "version"], capture_output=True, check=False).returncode:
            return path
    raise ToolError("no docker command here can build by BuildKit", hint="install the buildx plugin of your docker")


def _answers(docker: Docker) -> bool:
    return not subprocess.run(
        [docker.command, "version", "--format", "{{.Server.Version}}"],
        env=dict(docker.environment),
        capture_output=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    ).returncode


@contextlib.contextmanager
def _in_use() -> Iterator[int]:
    """A lock that every user of our own daemon shares."""
    try:
        RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (RUN / "users").open("w")
    except OSError as error:
        raise ToolError(
            f"no docker daemon runs, and none can be started: {error}", hint="start one, or be root"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield lock.fileno()


def _start(docker: Docker, say: Say) -> None:
    started = time.monotonic()
    data = cache_folder(docker.environment).parent / "docker"
    data.mkdir(parents=True, exist_ok=True)
    with (RUN / "starting").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if _answers(docker):
            return
        dockerd = shutil.which("dockerd") or "/usr/sbin/dockerd"
        if not os.access(dockerd, os.X_OK):
            raise ToolError("no docker daemon runs and none is installed", hint="tools/apt e2e installs one (as root)")
        pid_file = RUN / "dockerd.pid"
        options = [
            f"--data-root={data}",
            f"--exec-root={RUN}/exec",
            f"--pidfile={pid_file}",
            f"--host=unix://{RUN}/docker.sock",
        ]
        # kind makes a network of its own, and nothing else needs one: no bridge of ours stays behind.
        options += ["--bridge=none"]
        options += [f"--add-runtime=exact={_RUNC_WRAPPER}", "--default-runtime=exact"]
        with (RUN / "dockerd.log").open("w") as log:
            process = subprocess.Popen(
                [dockerd, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _STARTED.append(process)
        while not _answers(docker):
            if process.poll() is not None or time.monotonic() - started > _START_SECONDS:
                _end(process.pid)
                tail = (RUN / "dockerd.log").read_text("utf-8", "replace")[-_TAIL_CHARACTERS:]
                raise ToolError(f"dockerd does not start: {tail}", hint="it needs root, iptables and overlayfs")
            time.sleep(_POLL_SECONDS)
    say(f"docker: started a daemon of our own, {time.monotonic() - started:.0f} s")


def _stop_if_last(lock: int, say: Say) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another run uses it
    if not (RUN / "dockerd.pid").exists():
        return
    _end(int((RUN / "dockerd.pid").read_text()))
    say("docker: stopped our own daemon")


def _end(pid: int) -> None:
    """Ends a daemon of ours and returns when it is gone, by force after a minute."""
    deadline = time.monotonic() + _STOP_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline and not _is_gone(pid):
            time.sleep(_POLL_SECONDS)
        if not _is_gone(pid):
            os.kill(pid, signal.SIGKILL)


def _is_gone(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
