# SPDX-License-Identifier: Apache-2.0
"""Every example of own probes runs on a real program: what that program says it did is what the spans say, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.probes import proofs
from kernelspan_api.profile import load
from kernelspan_api.userprobes import Mechanism
from tests.support.otlp_json import ReceivedSpan
from tests.support.require import require
from tests.support.runs import SYSTEM_PYTHON, check_balance, read_spans
from tests.support.tls import make_tls
from tools.gotool import find_go

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.stem.partition("-")[2]: path for path in (ROOT / "examples").glob("[0-9]*.yaml")}
SHOP = ROOT / "tests/support/programs/shop"
KERNELSPAN = Path(sys.executable).with_name("kernelspan")
TIMEOUT_SECONDS = 300

EXECS = """
import subprocess
def start(*command): subprocess.run(command, check=False)
start("/bin/true"); start("/bin/sh", "-c", "/bin/true; exec /bin/echo")
try: start("/no/such/program")
except FileNotFoundError: pass
"""
OPENS = """
import os, sys
def look(path):
    try: os.close(os.open(path, os.O_RDONLY))
    except OSError: pass
folder = sys.argv[1]
for name in ("a.pem", "id_rsa", "a.pem.txt", "plain"): open(f"{folder}/{name}", "w").close()
for path in ("/etc/shadow", "/etc/hostname", "/run/secrets/none", "/etc/shado", f"{folder}/a.pem", f"{folder}/id_rsa",
             f"{folder}/a.pem.txt", f"{folder}/plain"):
    look(path)
"""
CONNECTS = """
import json, socket
def ask(family, address):
    try: socket.socket(family).connect(address)
    except OSError: pass
servers = [socket.create_server((host, 0), family=family) for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))]
for server in servers: ask(server.family, server.getsockname())
ask(socket.AF_INET, ("127.0.0.1", 1))
ask(socket.AF_UNIX, "/nobody")
print(json.dumps([server.getsockname()[1] for server in servers]))
"""
SENDS = """
import socket, threading
def serve(server):
    connection, _ = server.accept()
    while connection.recv(1 << 20): pass
for port in (5432, 8080):
    server = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    peer = socket.create_connection(("127.0.0.1", port))
    def send(size): peer.sendall(b"x" * size)
    for size in (1000, 65536, 65537, 100000): send(size)
"""
SYNCS = """
import json, os, sys, time
def sync(act, size):
    fd = os.open(sys.argv[1] + "/data", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * size)
    start = time.perf_counter_ns()
    act(fd)
    took.append([act.__name__, (time.perf_counter_ns() - start) // 1000])
    os.close(fd)
took = []
for size in (1, 128 << 20, 1): sync(os.fsync, size); sync(os.fdatasync, size)
print(json.dumps(took))
"""
COLLECTS = """
import gc, json, time
gc.disable()
seen = []
gc.callbacks.append(lambda phase, info: phase == "start" and seen.append(info["generation"]))
for generation in (0, 1, 2, 0, 2): gc.collect(generation)
print(json.dumps(seen), flush=True)
"""
WRITES = """
import json, ssl, sys, threading, socket
ca, certificate, key = sys.argv[1:]
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain(certificate, key)
client = ssl.create_default_context(cafile=ca)
one, two = socket.socketpair()
def serve():
    peer = server.wrap_socket(two, server_side=True)
    while peer.recv(1 << 16): pass
thread = threading.Thread(target=serve); thread.start()
peer = client.wrap_socket(one, server_hostname="localhost")
sizes = [1, 100, 10000]
for size in sizes: peer.send(b"x" * size)
peer.shutdown(socket.SHUT_RDWR); peer.close(); thread.join()
print(json.dumps(sizes))
"""
MALLOCS = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for size in (1 << 20, (1 << 20) - 1, 5 << 20, 1000): libc.free(libc.malloc(size))
"""


def traced(folder: Path, name: str, *command: str, text: str = "") -> tuple[list[ReceivedSpan], str, dict[str, Any]]:
    """The spans of the example's probes, what the command said, and the report."""
    output, report = folder / "spans.jsonl", folder / "report.json"
    done = subprocess.run(
        [KERNELSPAN, "run", "-f", EXAMPLES[name], "--output", output, "--report", report, "--", *command],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, input=text,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    check_balance(found)
    assert {each["state"] for each in found["probes"]} == {"Attached"}, done.stderr
    probes = {each.name for each in load(EXAMPLES[name].read_bytes(), standalone=True).spec.probes}
    spans = [span for span in read_spans(output) if span.attributes.get("kernelspan.probe.name") in probes]
    assert len(spans) == found["operations"]["exported"]
    return spans, done.stdout, found


def python(folder: Path, name: str, program: str, *arguments: str) -> tuple[list[ReceivedSpan], str]:
    """The same of a Python program."""
    path = folder / "program.py"
    path.write_text(program)
    return traced(folder, name, SYSTEM_PYTHON, "-S", str(path), *arguments)[:2]


def test_exec_watch(tmp_path: Path) -> None:
    """Every program that was really started, and none that was not there."""
    spans, _ = python(tmp_path, "exec-watch", EXECS)
    wanted = [SYSTEM_PYTHON, "/bin/true", "/bin/sh", "/bin/true", "/bin/echo"]
    assert [
        span.attributes["process.executable.path"] for span in sorted(spans, key=lambda span: span.start_ns)
    ] == wanted
    assert all(span.start_ns == span.end_ns for span in spans)


def test_sensitive_files(tmp_path: Path) -> None:
    """Those that match, by the function that opened them; what could not be opened is an error."""
    spans, _ = python(tmp_path, "sensitive-files", OPENS, str(tmp_path))
    looked = [span for span in spans if span.attributes.get("code.function.name") == "__main__.look"]
    paths = ["/etc/shadow", "/run/secrets/none", f"{tmp_path}/a.pem", f"{tmp_path}/id_rsa"]
    assert sorted(str(span.attributes["file.path"]) for span in looked) == sorted(paths)
    errors = {span.attributes["file.path"]: span.attributes.get("error.type") for span in looked}
    assert {path for path, error in errors.items() if error} == {"/run/secrets/none"}
    assert errors["/run/secrets/none"] == "ENOENT"
    assert {span.attributes["file.path"] for span in spans} == set(paths)  # the program made two of them first


def test_outbound_connections(tmp_path: Path) -> None:
    """Both families with address and port, refused ones too; no unix socket; the function that asked."""
    spans, said = python(tmp_path, "outbound-connections", CONNECTS)
    four, six = json.loads(said)
    found = [(span.attributes["network.peer.address"], span.attributes["network.peer.port"]) for span in spans]
    assert sorted(found) == sorted([("127.0.0.1", four), ("::1", six), ("127.0.0.1", 1)])
    assert {span.attributes["code.function.name"] for span in spans} == {"__main__.ask"}
    assert {span.kind for span in spans} == {"CLIENT"}
    refused = [span.attributes["connect.result"] for span in spans if span.attributes["network.peer.port"] == 1]
    assert refused == [-111]


def test_large_database_sends(tmp_path: Path) -> None:
    """More than 64 KiB to a database's port; on a kernel without probes on its functions: said, with status 3."""
    if not any(proofs.prove(each).works for each in Mechanism if each is not Mechanism.AUTO):
        done = subprocess.run(
            [KERNELSPAN, "run", "-f", EXAMPLES["large-database-sends"], "--", "touch", tmp_path / "left"],
            capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert "probe large-database-send: MechanismUnsupported: " in done.stderr
        assert not (tmp_path / "left").exists()
        return
    spans, _ = python(tmp_path, "large-database-sends", SENDS)
    assert sorted(int(str(span.attributes["send.requested"])) for span in spans) == [65537, 100000]
    assert {span.attributes["network.peer.port"] for span in spans} == {5432}
    assert {span.attributes["code.function.name"] for span in spans} == {"__main__.send"}


def test_slow_fsync(tmp_path: Path) -> None:
    """What the program itself found slow, with the file's path; nothing quicker."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as on_disk:
        spans, said = python(tmp_path, "slow-fsync", SYNCS, on_disk)
    limit_us = 10_000
    took = json.loads(said)
    slow = Counter(name for name, microseconds in took if microseconds >= 2 * limit_us)
    found = Counter(str(span.attributes["kernelspan.probe.name"]).removeprefix("slow-") for span in spans)
    assert slow["fsync"], took
    assert all(found[name] >= count for name, count in slow.items()), (took, found)
    assert all(span.end_ns - span.start_ns >= limit_us * 1000 for span in spans)
    assert {span.attributes["file.path"] for span in spans} == {f"{on_disk}/data"}
    assert {span.attributes["code.function.name"] for span in spans} == {"__main__.sync"}


def test_go_function(tmp_path: Path) -> None:
    """Each call with its strings, number and answer, from whichever thread and stack."""
    try:
        go = find_go(os.environ, SHOP)
    except Exception as error:
        require("kernel", False, f"no Go: {error}")
        raise
    shop = tmp_path / "shop"
    environment = {**go.environment, "GOPROXY": "off"}
    subprocess.run(
        [go.command, "build", "-o", shop, "."], cwd=SHOP, env=environment, check=True, timeout=TIMEOUT_SECONDS
    )
    spans, said, _ = traced(tmp_path, "go-function", str(shop), text="\n")
    found = [
        " ".join(str(span.attributes[f"quote.{name}"]) for name in ("item", "region", "count", "price"))
        for span in spans
    ]
    assert sorted(found) == sorted(said.splitlines()[1:])
    assert len(found) == 56


def test_python_gc(tmp_path: Path) -> None:
    """Each collection by its generation; the one of the interpreter's end besides."""
    spans, said = python(tmp_path, "python-gc", COLLECTS)
    generations = [span.attributes["gc.generation"] for span in sorted(spans, key=lambda span: span.start_ns)]
    wanted = json.loads(said)
    at = next(at for at in range(len(generations)) if generations[at : at + len(wanted)] == wanted)
    assert set(generations[at + len(wanted) :]) <= {2}
    assert all(span.end_ns > span.start_ns for span in spans)


def test_openssl_writes(tmp_path: Path) -> None:
    """The bytes of each write, as the program gave them."""
    tls = make_tls(tmp_path / "tls")
    files = (str(tls.ca), str(tls.server_certificate), str(tls.server_key))
    spans, said = python(tmp_path, "openssl-writes", WRITES, *files)
    written = [span.attributes["tls.requested"] for span in sorted(spans, key=lambda span: span.start_ns)]
    assert written == json.loads(said)


def test_large_mallocs(tmp_path: Path) -> None:
    """A megabyte and more; one byte less is filtered in the kernel."""
    spans, _ = python(tmp_path, "large-mallocs", MALLOCS)
    sizes = [span.attributes["malloc.size"] for span in spans]
    assert [size for size in sizes if size in (1 << 20, (1 << 20) - 1, 5 << 20, 1000)] == [1 << 20, 5 << 20]
    assert min(int(str(size)) for size in sizes) >= 1 << 20


def test_every_example_of_own_probes_has_a_test() -> None:
    """By its name."""
    mine = {name for name, path in EXAMPLES.items() if load(path.read_bytes(), standalone=True).spec.probes}
    assert {name for name in mine if f"test_{name.replace('-', '_')}" not in globals()} == set()


@pytest.mark.parametrize("name", ["slow-fsync", "large-database-sends"])
def test_check_says_how_each_would_be_attached(name: str) -> None:
    """By the mechanism that was tried, and why not by another; status 3 where nothing of it can be had here."""
    done = subprocess.run(
        [KERNELSPAN, "check", "-f", EXAMPLES[name], "--json"],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    probes = json.loads(done.stdout)["profile"]["probes"]
    has = {each for each in Mechanism if each is not Mechanism.AUTO and proofs.prove(each).works}
    for probe in probes:
        mechanisms = {probe["mechanism"], *(each["mechanism"] for each in probe["others"])} - {""}
        assert mechanisms >= {each.value for each in Mechanism if each is not Mechanism.AUTO}
        assert all(each["why"] for each in probe["others"])
        if not has and name == "slow-fsync":
            assert (probe["state"], probe["mechanism"]) == ("Attached", "Tracepoint")
            assert probe["verifiedInstructions"] is None or probe["verifiedInstructions"] > 0
        assert (probe["state"] == "Attached") == (bool(has) or name == "slow-fsync")
    assert done.returncode == (0 if has or name == "slow-fsync" else 3)
