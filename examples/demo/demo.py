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
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
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
PAUSE_SECONDS = 2.0
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PROCESSES = 4  # gunicorn, its worker, java, stock
OPERATION = {"file.path", "network.peer.address"}  # what an operation has and a function's span has not


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
    """A running `kernelspan run`. Its traces go to our standard output; its messages to our standard error, later."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.spans, self.report = folder / "spans.jsonl", folder / "report.json"
        command = [str(KERNELSPAN), "run", "-f", str(HERE / "profile.yaml"), "--pid", str(pid), "--console"]
        command += ["--output", str(self.spans), "--report", str(self.report), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._port: int | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "listening on port" in line:
                self._port = int(line.rsplit(maxsplit=1)[1])
            else:
                self.said.append(line)

    def wait_until_tracing(self) -> None:
        """Returns when the application's processes are traced. Raises SystemExit with the agent's words if it ends."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if self._port and self._traced() > 0:
                return
            time.sleep(0.05)
        self._reader.join(1)
        sys.exit("".join(self.said) + "demo: kernelspan does not run here; .venv/bin/kernelspan check says why")

    def _traced(self) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, http.client.HTTPException):
            return 0.0
        return next((float(line.split()[1]) for line in lines if line.startswith("kernelspan_processes_traced ")), 0.0)

    def stop(self) -> None:
        """Ctrl-C, and the accounting that it prints."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_SECONDS)
        sys.stdout.flush()
        print("".join(self.said), end="", flush=True)


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
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-"))
        shop, port = stack.enter_context(application(python, Path(name)))
        client = stack.enter_context(
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS))
        )
        for method, path, _ in REQUESTS:  # imports, templates and pools are made at the first request
            ask(client, method, path)
        agent = Agent(shop.pid, keep or Path(name))
        try:
            agent.wait_until_tracing()
            say(f"kernelspan is attached to process {shop.pid}, an unmodified Flask application under gunicorn")
            time.sleep(PAUSE_SECONDS)
            for method, path, what in REQUESTS:
                say(f"{method} {path} -> {ask(client, method, path)}   {what}\n")
                time.sleep(PAUSE_SECONDS)
        finally:
            agent.stop()
        found = attributed(agent.spans)
    print()
    for (function, library), count in sorted(found.items()):
        say(f"{count} operations of {function} went through {library}")
    if not found:
        say("no operation was seen with a function of the application and a library: this is not as it should be")
    return 0 if found else 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trace a small web application and print its traces.")
    parser.add_argument("--python", required=True, help="the application's interpreter, with requirements/demo.txt")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write spans.jsonl and report.json here")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return demonstrate(options.python, options.keep)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
