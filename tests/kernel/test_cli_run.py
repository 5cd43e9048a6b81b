# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run`: what it refuses before anything starts, and what others can ask of it while it runs."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_agent.cli import reference
from kernelspan_agent.probes.tracefs import Tracefs
from tests.support.collector import Collector
from tests.support.runs import read_spans

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "examples/01-python-files.yaml"
WAIT_SECONDS = 60.0
_COMMAND = [sys.executable, "-c", "from kernelspan_agent.cli import main; main()"]

# Says what it does: so many reads, one a line of its input.
READER = """
import os, sys
def read_one():
    fd = os.open("/etc/hostname", os.O_RDONLY)
    os.read(fd, 10)
    os.close(fd)
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        read_one()
    print("done", flush=True)
"""


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "KERNELSPAN_"))}
    return plain | more


def run(*arguments: str, under: Sequence[str] = (), **more: str) -> subprocess.CompletedProcess[str]:
    """`run` with the profile of files, to its end."""
    return subprocess.run(
        [*under, *_COMMAND, "run", "-f", str(FILES), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**more),
        check=False,
    )


def touches(path: Path) -> list[str]:
    """A command that leaves a file: whether it was ever run."""
    return ["--", "/usr/bin/touch", str(path)]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--output", "/no/such/folder/x"], 2, "--output '/no/such/folder/x': No such file"),
        (["--output", "/"], 2, "Is a directory"),
        (["--report", "/no/such/folder/x"], 2, "--report '/no/such/folder/x': No such file"),
        (["--otlp", "http://"], 2, "is no endpoint"),
        (["--otlp", "host:99999"], 2, "the port must be a number"),
        (["--otlp", "ftp://host"], 2, "the scheme must be http or https"),
        (["--listen", "nowhere"], 2, "--listen 'nowhere' is no address"),
        (["--listen", "192.0.2.1:9464"], 2, "--listen 192.0.2.1:9464"),
        (["--self-traces"], 2, "no OTLP endpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_never_starts_the_command(tmp_path: Path, options: list[str], status: int, words: str) -> None:
    """Said in one line with the option's name, and the command has not run."""
    left = tmp_path / "left"
    found = run(*options, *touches(left))
    assert (found.returncode, found.stdout) == (status, "")
    assert words in found.stderr
    assert "Traceback" not in found.stderr
    assert not left.exists()


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        (("bpf", "sys_admin"), {"CAP_BPF"}),
        (("perfmon", "sys_admin"), {"CAP_PERFMON"}),
        (("bpf", "perfmon", "sys_admin"), {"CAP_BPF", "CAP_PERFMON"}),
        (("sys_ptrace", "dac_override", "dac_read_search"), {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_missing_capabilities_are_named(tmp_path: Path, dropped: tuple[str, ...], named: set[str]) -> None:
    """All of them and only them, with how to grant them; exit 3."""
    flags = ",".join(f"-{name}" for name in dropped)
    left = tmp_path / "left"
    found = run(*touches(left), under=("setpriv", "--inh-caps", flags, "--bounding-set", flags))
    assert found.returncode == 3
    message, hint = found.stderr.splitlines()[-2:]
    assert set(re.findall(r"CAP_\w+", message)) == named
    assert "PermissionDenied" in message
    assert "setpriv" in hint
    assert not left.exists()


@pytest.mark.parametrize("reads", ["Auto", "Helpers"])
@pytest.mark.parametrize("below", [(), ("unshare", "-pf", "--mount-proc")], ids=["in", "below"])
def test_a_pid_namespace_of_its_own(tmp_path: Path, below: tuple[str, ...], reads: str) -> None:
    """An agent in one (a node that is a container) and a program in it, or in one of its own below it (a pod there).

    What is said are the ids of the agent's namespace, which are small numbers; the program's own are smaller still.
    """
    output, report, program = tmp_path / "out.json", tmp_path / "report.json", tmp_path / "program.py"
    program.write_text(
        "import os, threading, time\n"
        "time.sleep(0.5)\n"  # until it is known what runs it
        "def mark(what):\n"
        "    try: os.stat('/mark/' + what)\n"
        "    except OSError: pass\n"
        "mark('main')\n"
        "one = threading.Thread(target=mark, args=('thread',)); one.start(); one.join()\n"
        "if not os.fork(): mark('child'); os._exit(0)\n"
        "os.wait()\n"
    )
    found = run(
        "--output", str(output), "--report", str(report), "--", *below, "/usr/bin/python3", str(program),
        under=("unshare", "-pf", "--mount-proc"), KERNELSPAN_READS=reads,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    spans = [span for span in read_spans(output) if span.attributes.get("file.path", "").startswith("/mark/")]
    assert sorted(span.attributes["file.path"] for span in spans) == ["/mark/child", "/mark/main", "/mark/thread"]
    assert {span.attributes["code.function.name"] for span in spans} == {"__main__.mark"}
    pids = {span.attributes["file.path"]: span.resource["process.pid"] for span in spans}
    assert pids["/mark/main"] == pids["/mark/thread"] != pids["/mark/child"]
    assert all(1 < pid < 1000 for pid in pids.values())
    if below:
        inner = {span.attributes["file.path"]: span.resource.get("process.vpid") for span in spans}
        assert inner["/mark/main"] == 1
        assert inner["/mark/child"] in {3, None}  # it may have ended before it could be looked at
    assert json.loads(report.read_text())["operations"]["unaccounted"] == 0


def test_four_capabilities_are_enough(tmp_path: Path) -> None:
    """Not root, and every operation is seen; without tracefs too."""
    caps = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
    report = tmp_path / "report.json"
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    hidden = 'umount -l /sys/kernel/tracing 2>/dev/null; umount -l /sys/kernel/debug 2>/dev/null; exec "$@"'
    under = ("unshare", "-m", "sh", "-c", hidden, "sh", "setpriv", "--reuid", "65534", "--clear-groups",
             "--bounding-set", caps, "--inh-caps", caps, "--ambient-caps", caps)  # fmt: skip
    found = run(
        "--report", str(report), "--", "cat", "/etc/hostname", under=under, KERNELSPAN_CACHE=str(tmp_path / "cache")
    )
    assert found.returncode == 0, found.stderr
    operations = json.loads(report.read_text())["operations"]
    assert operations["exported"] > 0
    assert operations["unaccounted"] == 0


def test_the_report_has_the_documented_keys(tmp_path: Path) -> None:
    """All of docs/reference/cli.md and no other; what was there before is replaced."""
    report = tmp_path / "report.json"
    report.write_text("x" * 100_000)
    assert run("--report", str(report), "-q", "--", "true").returncode == 0
    named = (key for keys, _ in reference._KEYS["run", "Keys of `--report`:"] for key in keys.split(", "))
    keys = {re.split(r"[\[.]", key)[0] for key in named}
    assert set(json.loads(report.read_text())) == keys


def test_few_calls_one_by_one_see_those_whose_tracepoints_have_other_names(tmp_path: Path) -> None:
    """stat, lstat and fstat are newstat, newlstat and newfstat to the kernel."""
    profile = tmp_path / "stat.yaml"
    profile.write_text(
        "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: stat}\n"
        f"spec: {{files: {{operations: [Stat], paths: [{tmp_path}]}}}}\n"
    )
    target = tmp_path / "target"
    target.write_text("")
    calls = {"stat": 4, "lstat": 6, "fstat": 5}  # x86-64
    script = f"""
import ctypes, os
libc = ctypes.CDLL(None)
buffer, fd = ctypes.create_string_buffer(4096), os.open({str(target)!r}, os.O_RDONLY)
for number, first in ((4, {os.fsencode(target)!r}), (6, {os.fsencode(target)!r}), (5, fd)):
    assert libc.syscall(number, first, buffer) == 0
"""
    output = tmp_path / "spans.jsonl"
    found = subprocess.run(
        [*_COMMAND, "run", "-f", profile, "--output", output, "--report", tmp_path / "r", "--", sys.executable, "-c", script],
        capture_output=True, text=True, timeout=120, env=environment(), check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    report = json.loads((tmp_path / "r").read_text())
    assert report["mechanism"] == "Tracepoint"
    spans = [
        {each["key"]: each["value"].get("stringValue") for each in span["attributes"]} | {"name": span["name"]}
        for line in output.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    seen = [span for span in spans if span["name"] == "file.stat" and span.get("file.path") == str(target)]
    assert len(seen) == len(calls)


def test_tracefs_is_asked_where_it_is() -> None:
    """This machine's, so that the test above tests what it says."""
    assert Tracefs.find().event_id("syscalls", "sys_enter_newlstat") is not None


# --- while it runs ------------------------------------------------------------------------------------------------


class Agent:
    """A running `run` with a program below it that does what it is told."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def read(self, count: int) -> None:
        """Makes the program open and read so often."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, by the official parser."""
        status, text = self.get("/metrics")
        assert status == 200
        return {
            sample.name + "".join(sorted(f",{value}" for value in sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def agent(tmp_path: Path, *options: str) -> Iterator[Agent]:
    """With the port that the kernel chose, as standard error tells it."""
    errors = tmp_path / "stderr"
    with errors.open("w") as sink:
        command = [
            *_COMMAND,
            "run",
            "-f",
            FILES,
            "--listen",
            "127.0.0.1:0",
            *options,
            "--",
            sys.executable,
            "-c",
            READER,
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment()
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", errors.read_text()
        told = re.search(r"listening on port (\d+)", errors.read_text())
        assert told, errors.read_text()
        yield Agent(process, int(told[1]))
    finally:
        process.kill()
        with process:  # closes its pipes, waits
            pass


def until(condition: Sequence[bool] | object, what: str) -> None:
    """Asks a callable until it is true."""
    assert callable(condition)
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_metrics_are_the_accounting(tmp_path: Path) -> None:
    """They rise by what the program does, add up, follow the conventions, and agree with the report at the end."""
    report, output = tmp_path / "report.json", tmp_path / "spans.jsonl"
    with agent(tmp_path, "--report", str(report), "--output", str(output), "-q") as running:
        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz") == (200, "ok\n")
        before = running.metrics()
        running.read(50)
        exported = "kernelspan_operations_exported_total,python-files"
        until(lambda: running.metrics()[exported] >= before[exported] + 100, "50 opens and 50 reads are exported")
        after = running.metrics()
        seen = "kernelspan_operations_seen_total,python-files"
        assert after[seen] - before[seen] >= 100
        assert after["kernelspan_processes_traced"] == 1
        assert after["kernelspan_attachments"] > 0
        assert after[f"kernelspan_export_requests_total,file {output},python-files"] > 0
        assert any(name.startswith("kernelspan_runtimes_detected_total,CPython 3.") for name in after)
        _conventions(running.get("/metrics")[1])
        assert running.process.stdin is not None
        running.process.stdin.close()
        assert running.process.wait(WAIT_SECONDS) == 0
        operations = json.loads(report.read_text())["operations"]
        assert operations["exported"] >= after[exported]
        assert operations["unaccounted"] == 0
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset: nobody is there
            running.get("/healthz")


def _conventions(text: str) -> None:
    """Names, types, help, units; no label with a value that has no bound."""
    families = list(text_string_to_metric_families(text))
    own = [family for family in families if family.name.startswith("kernelspan_")]
    assert len(own) > 20
    assert {family.name.split("_")[0] for family in families} == {"kernelspan", "process"}
    for family in own:
        assert family.documentation, family.name
        assert re.fullmatch(r"[a-z_]+", family.name), family.name
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name
            assert set(sample.labels) <= {"reason", "state", "runtime", "output", "program", "part", "version", "kernel", "mechanism", "profile", "library", "operation"}  # fmt: skip


def test_a_port_in_use_is_told_and_nothing_is_traced(tmp_path: Path) -> None:
    """Before the command starts."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        left = tmp_path / "left"
        found = run("--listen", f"127.0.0.1:{other.getsockname()[1]}", *touches(left))
    assert found.returncode == 2
    assert "Address already in use" in found.stderr
    assert not left.exists()


def test_a_stopped_agent_is_unhealthy_to_nobody_else(tmp_path: Path) -> None:
    """A client that stays connected does not hold up the end."""
    with agent(tmp_path, "-q") as running, socket.create_connection(("127.0.0.1", running.port), timeout=20):
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("how", ["option", "variable"])
def test_own_traces_reach_the_collector(collector: Collector, how: str) -> None:
    """Open, compile, load, attach in one trace, exports and detaching apart; the service is the agent, the program's own spans are there."""
    options = ["--self-traces"] if how == "option" else []
    more = {} if how == "option" else {"KERNELSPAN_SELF_TRACES": "1"}
    found = run("--otlp", collector.grpc_endpoint, *options, "-q", "--", "cat", "/etc/hostname", **more)
    assert found.returncode == 0, found.stderr
    spans = collector.spans()
    own = [span for span in spans if span.resource["service.name"] == "kernelspan-agent"]
    by_name = {span.name: span for span in own}
    assert set(by_name) == {"agent.open", "agent.compile", "agent.load", "agent.attach", "agent.export", "agent.detach"}
    opened = by_name["agent.open"]
    for name in ("agent.compile", "agent.load", "agent.attach"):
        assert (by_name[name].trace_id, by_name[name].parent_span_id) == (opened.trace_id, opened.span_id)
    others = {span.resource["service.name"] for span in spans} - {"kernelspan-agent"}
    assert others == {"cat"}


def test_the_agent_does_not_trace_itself_unasked(collector: Collector) -> None:
    """Only the program's spans."""
    assert run("--otlp", collector.grpc_endpoint, "-q", "--", "cat", "/etc/hostname").returncode == 0
    assert {span.resource["service.name"] for span in collector.spans()} == {"cat"}


def test_the_log_is_json_where_nobody_looks() -> None:
    """A collector that is not there: its trouble is one event a line, no captured argument in it."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    found = run("--otlp", f"127.0.0.1:{port}", "-q", "--", "cat", "/etc/hostname", OTEL_BSP_EXPORT_TIMEOUT="200")
    lines = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines} & {"export.retry", "export.failed"}
    assert all("/etc/hostname" not in json.dumps(line) for line in lines)
