# SPDX-License-Identifier: Apache-2.0
"""The demo: a small shop of three services and a database runs, kernelspan is attached, a few requests are made.

The services are started first and asked once for each page, as one finds them in real life: already running. Requests come
2 s apart: after a second without operations a thread's trace ends, so each request has its own. What is printed is one of
them whole, through all services, and what became of every operation.

Ends with 0 if that trace went through all of them, down to the database.
"""

import argparse
import contextlib
import http.client
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import services

HERE = Path(__file__).resolve().parent
KERNELSPAN = HERE.parents[1] / ".venv/bin/kernelspan"
SHOWN = 1  # the request whose trace is printed
REQUESTS = (
    ("POST", "/orders/7", "stores an order: SQLite with its journal"),
    ("GET", "/orders/7", "shows it: prices come from prices (Java), which asks stock (Go), which asks PostgreSQL"),
    ("GET", "/orders/7", "shows it again: prices are in the cache now"),
    ("POST", "/report", "writes three files in a pool of threads"),
    ("GET", "/compare", "asks for two prices at once, in coroutines"),
    ("GET", "/invoices/7", "looks for a file that is not there"),
)
# The shop keeps a price for five seconds: one from before the agent's start is too old after two pauses, one from the request
# before is not.
PAUSE_SECONDS = 2.0
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PROCESSES = 4  # gunicorn, its worker, java, stock
OPERATION = {"file.path", "network.peer.address"}  # what an operation has and a function's span has not
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def say(text: str) -> None:
    """One line of ours."""
    print(f"demo: {text}", flush=True)


def ask(connection: http.client.HTTPConnection, method: str, path: str) -> int:
    """One request; its status."""
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Agent:
    """A running `kernelspan run` on some processes. `traces`: what it prints, in colours where we may; `said`: its messages."""

    def __init__(self, pids: Iterable[int], folder: Path) -> None:
        self.spans, self.report = folder / "spans.jsonl", folder / "report.json"
        command = [str(KERNELSPAN), "run", "-f", str(HERE / "profile.yaml"), "--console"]
        command += [text for pid in pids for text in ("--pid", str(pid))]
        command += ["--output", str(self.spans), "--report", str(self.report), "--listen", "127.0.0.1:0"]
        ours, its = pty.openpty() if sys.stdout.isatty() else os.pipe()
        environ = os.environ | {"COLUMNS": str(shutil.get_terminal_size((100, 24)).columns)}
        self.process = subprocess.Popen(command, stdout=its, stderr=subprocess.PIPE, text=True, env=environ)
        os.close(its)
        self.traces, self.said = "", list[str]()
        self._port: int | None = None
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        self._readers += [threading.Thread(target=self._read_traces, args=(ours,), daemon=True)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "listening on port" in line:
                self._port = int(line.rsplit(maxsplit=1)[1])
            else:
                self.said.append(line)

    def _read_traces(self, ours: int) -> None:
        with contextlib.suppress(OSError), open(ours, encoding="utf-8") as stream:  # a terminal ends with an error
            for line in stream:
                self.traces += line

    def wait_until_tracing(self) -> None:
        """Returns when the services are traced. Raises SystemExit with the agent's words if it ends."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if self._port and self._traced() >= PROCESSES:
                return
            time.sleep(0.05)
        self._readers[0].join(1)
        sys.exit("".join(self.said) + "demo: kernelspan does not run here; .venv/bin/kernelspan check says why")

    def _traced(self) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, http.client.HTTPException):
            return 0.0
        return next((float(line.split()[1]) for line in lines if line.startswith("kernelspan_processes_traced ")), 0.0)

    def stop(self) -> None:
        """Ctrl-C; then all has been said."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(STOP_SECONDS)

    def trace_of(self, method: str, path: str) -> str:
        """The first trace that this request is in, as it was printed; "" if there is none."""
        wanted = re.compile(rf"^{method} \S+  {path}  ", re.MULTILINE)
        return next((each for each in self.traces.split("\n\n") if wanted.search(_COLOUR.sub("", each))), "")


def attributed(spans: Path) -> Counter[tuple[str, str]]:
    """How many operations have both: (function of the application, library and version)."""
    found: Counter[tuple[str, str]] = Counter()
    for line in spans.read_text("utf-8").splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    has = {pair["key"]: next(iter(pair["value"].values())) for pair in span.get("attributes", [])}
                    function, library = has.get("code.function.name"), has.get("kernelspan.library.name")
                    if function and library and OPERATION & has.keys():
                        found[function, f"{library} {has.get('kernelspan.library.version', '')}"] += 1
    return found


def demonstrate(python: str, keep: Path | None) -> int:
    """The whole demo; its exit code."""
    programs = services.prepare(python, say)
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-"))
        say("starting PostgreSQL, stock (Go), prices (Java) and shop (Python)")
        shop = stack.enter_context(services.started(programs, Path(name)))
        client = stack.enter_context(
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", shop.port, timeout=START_SECONDS))
        )
        for method, path, _ in REQUESTS:  # imports, templates and pools are made at the first request
            ask(client, method, path)
        who = ", ".join(f"{name} ({pid})" for name, pid in shop.pids.items())
        say(f"attaching kernelspan to processes that run: {who}")
        agent = Agent(shop.pids.values(), keep or Path(name))
        try:
            agent.wait_until_tracing()
            time.sleep(PAUSE_SECONDS)
            for method, path, what in REQUESTS:
                say(f"{method} {path} -> {ask(client, method, path)}   {what}")
                time.sleep(PAUSE_SECONDS)
        finally:
            agent.stop()
        found = attributed(agent.spans)
    method, path, _ = REQUESTS[SHOWN]
    trace = agent.trace_of(method, path)
    say(f"the first {method} {path}, through all services:\n")
    print(trace, "", "".join(agent.said), sep="\n")
    for (function, library), count in sorted(found.items()):
        say(f"{count} operations of {function} went through {library}")
    if "SELECT" in trace and found:
        return 0
    say("the trace does not reach the database: this is not as it should be")
    return 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Trace a shop of three services and print a trace through all of them."
    )
    parser.add_argument("--python", required=True, help="the application's interpreter, with requirements/demo.txt")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write spans.jsonl and report.json here")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return demonstrate(options.python, options.keep)
    except services.SetupError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
