# SPDX-License-Identifier: Apache-2.0
"""A web application as users have one, with everything on, without, and with OpenTelemetry's own instrumentation inside.

Flask under gunicorn's threads, on one core; clients, agent and collector on the other, where the clients come first. In each round
every variant runs at a fixed rate, for its latency, and then as fast as it can, for its throughput and CPU; the agent is
attached to the running application each time, the instrumented one is another process of the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.lines import AGAIN, NONE, Row, added, judged
from bench.machine import LOAD_CORE, WORK_CORE, cpu_seconds
from bench.processes import HERE, Agent, BenchError, Child, compile_c, on_core
from bench.profiles import UNLIMITED
from bench.stats import Estimate, estimate

OURS, SDK = "ours", "opentelemetry-instrument"
VARIANTS = (NONE, OURS, SDK, AGAIN)
CONNECTIONS, THREADS = 8, 4
SHARE = 0.4  # of what it can do: the fixed rate
WARM_SECONDS = 1.0
START_SECONDS = 60.0
SPEC = {
    "requests": [{"protocol": "HTTP"}],
    "files": {},
    "network": {},
    "processes": {},
    "code": {},
    "limits": UNLIMITED,
}
PROFILE = {"apiVersion": "kernelspan.io/v1alpha1", "kind": "TraceProfile", "metadata": {"name": "web"}, "spec": SPEC}


@dataclass(frozen=True, slots=True)
class Round:
    """One variant in one round. Times in µs; CPU of a request at saturation."""

    p50: float
    p99: float
    per_second: float
    application_cpu: float
    agent_cpu: float


@dataclass
class Web:
    """Rounds by variant; `rate`: requests a second of the open loop; `operations`: that ours saw in all."""

    rate: float = 0.0
    rounds: dict[str, list[Round]] = field(default_factory=lambda: {name: [] for name in VARIANTS})
    operations: int = 0
    requests: int = 0

    def ratios(self, above: str, below: str, what: str) -> list[float]:
        """Of each round."""
        pairs = zip(self.rounds[above], self.rounds[below], strict=True)
        return [getattr(top, what) / getattr(bottom, what) for top, bottom in pairs]

    def as_json(self) -> dict[str, Any]:
        """For a result file."""
        return {
            "rate": self.rate,
            "operations": self.operations,
            "requests": self.requests,
            "rounds": {name: [asdict(each) for each in found] for name, found in self.rounds.items()},
        }


class Clients(Child):
    """workloads/clients.c, before everything else on its core: what it measures is not to be its own waiting.

    A first place by niceness would not do: who wakes up waits until the one that runs has had its slice, some 3 ms.
    """

    def __init__(self, program: Path, port: int) -> None:
        command = ["chrt", "--fifo", "1", *on_core(LOAD_CORE, [program, str(port), str(CONNECTIONS)])]
        super().__init__(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
        if self.line(START_SECONDS) != "ready":
            raise BenchError("the clients do not start")

    def ask(self, what: str, seconds: float) -> tuple[int, float, float, float]:
        """`rate PER_SECOND` or `full`: requests answered, p50 and p99 in µs, seconds. Raises BenchError if any failed."""
        assert self.process.stdin is not None
        verb, _, rate = what.partition(" ")
        self.process.stdin.write(f"{verb} {seconds} {rate}\n".encode())
        answered, failed, p50, p99, wall = map(int, self.line(seconds + START_SECONDS).split())
        if failed or not answered:
            raise BenchError(f"of {answered} requests {failed} failed")
        return answered, p50 / 1000, p99 / 1000, wall / 1e9


@dataclass(frozen=True)
class Kind:
    """How the application is run: its interpreter, what its command begins with, what its environment has besides."""

    python: str
    before: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def plain() -> Kind:
    """As it is. Raises BenchError."""
    run = HERE.parent / "examples" / "demo" / "run"
    found = subprocess.run([run, "--where"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise BenchError(f"the demo's environment cannot be made: {found.stderr.strip()[-300:]}")
    return Kind(found.stdout.strip())


def instrumented(http_endpoint: str) -> Kind:
    """By OpenTelemetry's own, with what it has for Flask, Jinja and sqlite3; spans go to the same collector. Raises BenchError."""
    from tests.support.venvs import library_venv  # noqa: PLC0415 - a checkout without tests can measure the rest

    try:
        folder = library_venv(HERE / "sdk.txt") / "bin"
    except subprocess.CalledProcessError as error:
        raise BenchError(
            f"no environment with OpenTelemetry's instrumentation: {error.stderr.strip()[-300:]}"
        ) from error
    environment = {
        "OTEL_SERVICE_NAME": "page",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": http_endpoint,
    }
    return Kind(str(folder / "python"), (str(folder / "opentelemetry-instrument"),), environment)


@contextlib.contextmanager
def application(folder: Path, kind: Kind) -> Iterator[tuple[int, int]]:
    """gunicorn with one worker of some threads; gives the worker's pid and its port. Raises BenchError."""
    folder.mkdir()
    log = folder / "gunicorn.log"
    command = [*kind.before, kind.python, "-m", "gunicorn", "-w", "1", "-k", "gthread", "--threads", str(THREADS)]
    command += ["--keep-alive", "3600", "-b", "127.0.0.1:0", "--chdir", str(HERE / "workloads"), "page:app"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            on_core(WORK_CORE, command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **kind.environment, "PAGE_DATA": str(folder)},
        )
    with Child(process):
        deadline = time.monotonic() + START_SECONDS
        while "Booting worker with pid: " not in (said := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"gunicorn does not start: {said[-300:]}")
            time.sleep(0.05)
        port = int(said.partition("Listening at: http://127.0.0.1:")[2].split()[0])
        worker = int(said.partition("Booting worker with pid: ")[2].split()[0])
        try:
            yield worker, port
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


@dataclass(frozen=True)
class Served:
    """An application that runs: its worker's pid, and its clients."""

    pid: int
    clients: Clients


def measure(
    folder: Path, endpoint: str, http_endpoint: str, rounds: int, seconds: float, say: Callable[[str], object]
) -> Web:
    """So many rounds, each variant `seconds` at the rate and as long at saturation. Raises BenchError.

    `http_endpoint`: where the instrumented one sends its spans; empty: it is left out.
    """
    found, order = Web(), random.Random(1)
    program = compile_c("clients.c", folder)
    kinds = {NONE: plain()} | ({SDK: instrumented(http_endpoint)} if http_endpoint else {})
    with contextlib.ExitStack() as stack:
        served = {}
        for index, (name, kind) in enumerate(kinds.items()):
            pid, port = stack.enter_context(application(folder / f"application{index}", kind))
            served[name] = Served(pid, stack.enter_context(Clients(program, port)))
        served |= {OURS: served[NONE], AGAIN: served[NONE]}
        clients = served[NONE].clients
        clients.ask("full", WARM_SECONDS)
        answered, _, _, wall = clients.ask("full", seconds)
        found.rate = round(SHARE * answered / wall, 1)
        say(f"web: {answered / wall:,.0f} requests/s alone; the rate is {found.rate:,.0f}/s")
        variants = [variant for variant in VARIANTS if variant in served]
        for number in range(rounds):
            for variant in order.sample(variants, len(variants)):
                found.rounds[variant].append(_round(variant, served[variant], endpoint, found, seconds))
            say(f"web: round {number + 1} of {rounds}")
    return found


def _round(variant: str, served: Served, endpoint: str, found: Web, seconds: float) -> Round:
    pid, clients = served.pid, served.clients
    with contextlib.ExitStack() as stack:
        agent = None
        if variant == OURS:
            agent = stack.enter_context(Agent(PROFILE, ["--pid", str(pid), "--otlp", endpoint]))
        clients.ask("full", WARM_SECONDS)
        _, p50, p99, _ = clients.ask(f"rate {found.rate}", seconds)
        application_before, agent_before = cpu_seconds(pid), agent.cpu_seconds() if agent is not None else 0.0
        answered, _, _, wall = clients.ask("full", seconds)
        application_cpu = (cpu_seconds(pid) - application_before) / answered * 1e6
        agent_cpu = 0.0
        if agent is not None:
            agent.settle()
            agent_cpu = (agent.cpu_seconds() - agent_before) / answered * 1e6
            report = agent.stop()
            operations = report["operations"]
            if operations["unaccounted"] or not operations["exported"]:
                raise BenchError(f"web: the agent's balance does not hold: {operations}")
            found.operations += operations["seen"]
            found.requests += report["requests"]["seen"]
        return Round(p50, p99, answered / wall, application_cpu, agent_cpu)


def rows(found: Web) -> list[Row]:
    """The lines on web applications."""
    each = found.operations / found.requests if found.requests else 0.0
    where = f"Flask on gunicorn, {THREADS} threads, {each:.0f} operations a request"

    def ratio(what: str, line: str, name: str, note: str) -> Row:
        noise: Estimate = estimate(found.ratios(AGAIN, NONE, what))
        return judged(name, where, line, estimate(found.ratios(OURS, NONE, what)), noise, note)

    def middle(variant: str, what: str) -> float:
        return estimate([getattr(each, what) for each in found.rounds[variant]]).median

    def cpu(variant: str) -> list[float]:
        return [each.application_cpu for each in found.rounds[variant]]

    def over(variant: str) -> list[float]:
        """CPU of a request inside the application, beyond that of none; µs, by round."""
        both = [(one + other) / 2 for one, other in zip(cpu(NONE), cpu(AGAIN), strict=True)]
        return [top - bottom for top, bottom in zip(cpu(variant), both, strict=True)]

    p99 = f"{middle(OURS, 'p99') / 1000:.2f} ms : {middle(NONE, 'p99') / 1000:.2f} ms at {found.rate:,.0f}/s"
    most = f"{middle(OURS, 'per_second'):,.0f}/s : {middle(NONE, 'per_second'):,.0f}/s"
    most += f"; CPU of a request {middle(NONE, 'application_cpu'):,.0f} µs, inside it {estimate(over(OURS)).median:+,.0f} µs, "
    most += f"the agent's {middle(OURS, 'agent_cpu'):,.0f} µs"
    listed: list[Row | None] = [
        ratio("p99", "<= 1.05", "web application at a fixed rate: p99, with us : without", p99),
        ratio("per_second", ">= 0.93", "web application at saturation: throughput, with us : without", most),
    ]
    if found.rounds[SDK]:
        same, base = estimate(found.ratios(AGAIN, NONE, "application_cpu")), middle(NONE, "application_cpu")
        agent = [each.agent_cpu for each in found.rounds[OURS]]
        inside = list(zip(over(OURS), over(SDK), strict=True))
        whole = [(ours + other, theirs) for (ours, theirs), other in zip(inside, agent, strict=True)]
        what = f"web application, CPU added to a request {{}}, ours : {SDK}"
        listed += [
            added(what.format("inside the application"), where, "<= 0.3", inside, same, base, "µs"),
            added(what.format("there and by the agent"), where, "<= 1.0", whole, same, base, "µs"),
        ]
    return [row for row in listed if row is not None]
