# SPDX-License-Identifier: Apache-2.0
"""The processes of a measurement: workers on their core, the peer and the agent on the other. All end with `close`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine import LOAD_CORE, WORK_CORE, cpu_seconds

HERE = Path(__file__).resolve().parent
START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 60.0, 120.0, 60.0


class BenchError(Exception):
    """A measurement cannot be made; the message says why."""


def compile_c(source: str, folder: Path, *flags: str) -> Path:
    """A workload in C, compiled with the machine's cc. Raises BenchError."""
    program = folder / Path(source).stem
    try:
        subprocess.run(
            ["cc", "-O2", "-o", program, HERE / "workloads" / source, "-lpthread", *flags],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError as error:
        raise BenchError("there is no C compiler (cc)") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{source}: {error.stderr.decode(errors='replace')[:400]}") from error
    return program


def on_core(core: int, command: Sequence[str | Path]) -> list[str]:
    """The command, held to one core."""
    return ["taskset", "-c", str(core), *map(str, command)]


class Child:
    """A child process; ended by its own pid."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def close(self) -> None:
        """Ends it, at the latest by SIGKILL."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def line(self, seconds: float) -> str:
        """The next line it prints. Raises BenchError where it ends or says nothing for so long."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise BenchError(f"{self.process.args!r} says nothing for {seconds:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.process.args!r} ended with {self.process.wait()}")
        return line.decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """One run of a workload; `cpu_ns` is that of the worker's own process."""

    operations: int
    wall_ns: int
    cpu_ns: int


class Worker(Child):
    """A workload process that does what it is told, one line at a time."""

    def __init__(self, label: str, command: Sequence[str | Path], core: int | None = WORK_CORE) -> None:
        self.label = label
        whole = on_core(core, command) if core is not None else [str(part) for part in command]
        super().__init__(subprocess.Popen(whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
        if self.line(START_SECONDS) != "ready":
            raise BenchError(f"{label} does not start")

    def tell(self, workload: str, count: int, *more: int) -> None:
        """Begins a workload; `answer` waits for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{workload} {count} {' '.join(map(str, more))}\n".encode())

    def answer(self, seconds: float = ANSWER_SECONDS) -> Answer:
        """What the workload that runs came to."""
        line = self.line(seconds)
        if line.startswith("?"):
            raise BenchError(f"{self.label} has no workload {line[2:]}")
        return Answer(*map(int, line.split()))

    def run(self, workload: str, count: int, *more: int) -> Answer:
        """A workload from its beginning to its end."""
        self.tell(workload, count, *more)
        return self.answer()


class Peer(Child):
    """The other end of the network workloads. `ports`: echo, accept, http."""

    def __init__(self, program: Path) -> None:
        super().__init__(
            subprocess.Popen(on_core(LOAD_CORE, [program]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        )
        self.ports = self.line(START_SECONDS).split()


class Agent(Child):
    """`kernelspan run` as a user starts it, but for a word when it traces (bench/agent.py)."""

    def __init__(
        self,
        profile: Mapping[str, Any],
        arguments: Sequence[str],
        *,
        mode: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Traces when this returns. Raises BenchError with what the agent said."""
        self._folder = tempfile.TemporaryDirectory(prefix="kernelspan-bench-")
        folder = Path(self._folder.name)
        (folder / "profile.yaml").write_text(json.dumps(profile))  # JSON is YAML
        self._report, self._log = folder / "report.json", folder / "log"
        ready, write = os.pipe()
        command = [
            sys.executable, "-X", "faulthandler", "-m", "bench.agent", "run", "-q", "-f", str(folder / "profile.yaml"),
            "--report", str(self._report), *arguments,
        ]  # fmt: skip
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                on_core(LOAD_CORE, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write],
                cwd=HERE.parent,
                env={**os.environ, **(environ or {}), "BENCH_READY_FD": str(write), "BENCH_MODE": mode},
            )
        super().__init__(process)
        os.close(write)
        traces = bool(select.select([ready], [], [], START_SECONDS)[0] and os.read(ready, 1))
        os.close(ready)
        if not traces:
            said = self._said()
            self.close()
            raise BenchError(f"the agent does not start: {said}")

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return cpu_seconds(self.pid)

    def settle(self, quiet_seconds: float = 0.25, most_seconds: float = 30.0) -> None:
        """Waits until the agent has nothing left to do: it used next to no CPU for a while."""
        deadline = time.monotonic() + most_seconds
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(quiet_seconds)
            if self.cpu_seconds() - before <= quiet_seconds * 0.1:
                return

    def stop(self) -> dict[str, Any]:
        """Ends it as Ctrl-C does; its report. Raises BenchError where it gives none."""
        self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it says where it is
            self.process.wait()
            raise BenchError(f"the agent does not end: {self._said()}") from None
        if status or not self._report.exists():
            raise BenchError(f"the agent ended with {status}: {self._said()}")
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    def close(self) -> None:
        """Ends it and removes what it wrote."""
        super().close()
        self._folder.cleanup()
