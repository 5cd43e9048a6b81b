# SPDX-License-Identifier: Apache-2.0
"""Reasons of a status that an agent itself finds, on this machine's kernel: each is reached here by what it is about.

Those of functions, budgets and specs have tests of their own beside what they are about.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.compiled import compiled, nm
from tests.support.generators import compiled_cxx
from tests.support.node_agents import PYTHON, Running, Start, profile, program, starting
from tests.support.php_runs import needed
from tests.support.pods import Pod, every_container, line
from tests.support.ports import PortReservation
from tests.support.server import http_get
from tests.support.tls import TlsFiles

STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}
EXEC = {"category": "sched", "event": "sched_process_exec"}
FILE = os.path.realpath(PYTHON)  # Debian's, which has no symbols but those that it exports
# By name: what is asked for, the reason, and a word of the message.
PROBES: dict[str, tuple[dict[str, Any], str, str]] = {
    "event": ({"tracepoint": {"category": "sched", "event": "no_such"}}, "TracepointNotFound", "no_such"),
    "category": ({"tracepoint": {"category": "nothing", "event": "e"}}, "TracepointNotFound", "nothing"),
    "raw": ({"tracepoint": {"category": "sched", "event": "no_such", "raw": True}}, "TracepointNotFound", "no_such"),
    "field": (
        {"tracepoint": EXEC, "args": [{"field": "no_such", "type": "Int32", "attribute": "a"}]},
        "ArgumentUnsupported",
        "no_such",
    ),
    "in-timers": (
        {"tracepoint": {"category": "tcp", "event": "tcp_retransmit_skb"}},
        "SoftirqContext",
        "probe the call that begins it",
    ),
    "raw-in-timers": (
        {"tracepoint": {"category": "tcp", "event": "tcp_retransmit_skb", "raw": True}},
        "SoftirqContext",
        "probe the call that begins it",
    ),
    "function": ({"kprobe": {"call": "no_such_function_in_any_kernel"}}, "FunctionNotFound", "no_such_function"),
    "file": ({"uprobe": {"path": "/no/such", "symbols": ["f"]}}, "BinaryNotFound", "/no/such"),
    "stripped": ({"uprobe": {"path": FILE, "symbols": ["no_such_symbol"]}}, "SymbolStripped", "no_such_symbol"),
    "usdt": ({"usdt": {"path": FILE, "provider": "nobody", "probe": "nothing"}}, "UsdtNotFound", "nobody"),
}


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> Iterator[Start]:
    """Starts agents that dial one server; ends all."""
    with starting(tmp_path, tls_files, collector) as begin:
        yield begin


def states(agent: Running, uid: str) -> dict[str, tuple[str, str, str]]:
    """State, reason and message of each probe, as the operator heard of them last."""
    found = agent.server.states().get(uid)
    return {one.name: (one.state, one.reason, one.message) for one in found.probes} if found else {}


def test_each_probe_says_why(start: Start, collector: Collector, tmp_path: Path) -> None:
    """Twelve that cannot be, each for its own reason, and what can be beside them goes on."""
    whole, throws = str(compiled(tmp_path, "int main(void) { return 0; }")), compiled_cxx("own_targets")
    missing = {"uprobe": {"path": whole, "symbols": ["no_such_symbol"]}}
    risked = {"uprobe": {"path": str(throws), "offsets": [dict(nm(throws))["thrower"]]}, "mode": "Span"}
    probes = {
        **PROBES,
        "symbol": (missing, "SymbolNotFound", "no_such_symbol"),
        "return": (risked, "UretprobeUnsafe", "exception"),
    }
    bad = [{"name": name, "mode": "Event", **probe} for name, (probe, _, _) in probes.items()]
    good = {"name": "good", "mode": "Event", "tracepoint": EXEC}
    agent = start()
    with Pod("web-1") as pod:
        mine = program(pod)
        agent.follow([profile("p", **STATS, probes=[*bad, good])], [pod.plan(every_container("p"))])
        expected = {name: reason for name, (_, reason, _) in probes.items()}

        def reasons() -> dict[str, str]:
            return {name: reason for name, (state, reason, _) in states(agent, "p").items() if state == "Failed"}

        agent.until(lambda: reasons() == expected, f"failed as expected: {reasons()}")
        found = states(agent, "p")
        assert [name for name, (_, _, word) in probes.items() if word not in found[name][2]] == []
        assert found["good"][0] == found["files"][0] == "Attached"
        agent.until_seen(collector, mine, "seen")
        agent.stop()


def test_a_collector_that_is_away(start: Start, collector: Collector) -> None:
    """CollectorUnreachable once something could not be delivered, and not any more once it could."""
    agent = start()
    with Pod("web-1") as pod:
        mine = program(pod)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        agent.until_seen(collector, mine, "before")
        assert agent.server.states()["p"].export_reason == ""
        collector.kill()
        line(mine, "meanwhile")
        agent.until(lambda: agent.server.states()["p"].export_reason == "CollectorUnreachable", "unreachable")
        assert agent.server.states()["p"].reason == ""  # what is traced is traced
        collector.restart()
        agent.until_seen(collector, mine, "after")
        agent.until(lambda: agent.server.states()["p"].export_reason == "", "reachable again")
        agent.stop()
    marks = {str(span.attributes.get("file.path")) for span in collector.spans()}
    assert "/mark/meanwhile" in marks  # kept until it could be delivered


def test_nobody_is_selected(start: Start) -> None:
    """Of pods whose containers run: NoMatchingProcesses, until a process is one."""
    agent = start()
    with Pod("web-1") as pod:
        program(pod)
        selected = profile("p", **STATS, processSelector={"executables": ["/usr/bin/sleep"]})
        agent.follow([selected], [pod.plan(every_container("p"))])
        agent.until(lambda: agent.server.states()["p"].reason == "NoMatchingProcesses", "nobody")
        assert "processSelector" in agent.server.states()["p"].message
        pod.run("/usr/bin/sleep", "1000")
        agent.until(lambda: agent.server.states()["p"].reason == "", "somebody")
        agent.stop()


def sleeper(folder: Path, runtime: str) -> tuple[list[str], tuple[str, int, int, str], str]:
    """A command that sleeps, and what is to be told of its runtime, which cannot be walked, beside one that can."""
    if runtime == "Python":
        old = folder / "python3.6"
        shutil.copy("/usr/bin/sleep", old)
        return [str(old), "1000"], ("Python", 2, 1, "RuntimeUnsupported"), "CPython 3.6 is older than 3.8"
    php = needed("bookworm-8.2")  # of the suite that this machine's libraries are of
    assert php.root is not None
    content = (php.root / php.program.lstrip("/")).read_bytes()
    changed = content.replace(b"\0API20220829,NTS\0", b"\0API20220828,NTS\0")
    assert changed != content
    program = folder / "php"
    program.write_bytes(changed)
    program.chmod(0o755)
    return [str(program), "-n", "-r", "sleep(1000);"], ("PHP", 1, 0, "RuntimeLayoutUnknown"), "20220828"


@pytest.mark.parametrize("runtime", ["Python", "PHP"])
def test_a_runtime_that_is_not_walked(start: Start, tmp_path: Path, runtime: str) -> None:
    """What is traced is traced, without frames: which runtime that is of, and why, stands with the runtime."""
    command, expected, message = sleeper(tmp_path, runtime)
    agent = start()
    with Pod("web-1") as pod:
        program(pod)
        pod.run(*command)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])

        def runtimes() -> list[tuple[str, int, int, str]]:
            found = agent.server.states().get("p")
            each = found.runtimes if found else ()
            return [(one.runtime, one.processes, one.unwinding, one.reason) for one in each]

        agent.until(lambda: expected in runtimes(), f"told: {runtimes()}")
        (told,) = (one for one in agent.server.states()["p"].runtimes if one.runtime == runtime)
        assert message in told.message
        assert agent.server.states()["p"].reason == ""
        agent.stop()


# Runs a program that is stopped at its first instruction, as by a debugger: what it needs is not mapped yet.
STOPPED = """
import ctypes, os, sys
pid = os.fork()
if not pid:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
os.waitpid(pid, 0)
sys.stdin.read()
"""


def test_a_runtime_that_is_never_there(start: Start, tmp_path: Path) -> None:
    """What passes by itself mostly is told where it does not, after ten seconds."""
    library = compiled(tmp_path, "", "-shared", "-Wl,-soname,libpython3.11.so.1.0", name="library")
    embeds = compiled(tmp_path, "int main(void) { return 0; }", "-Wl,--no-as-needed", str(library), name="embeds")
    agent = start()
    with Pod("web-1") as pod:
        program(pod)
        pod.run(str(embeds), under=[PYTHON, "-c", STOPPED])
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])

        def told() -> list[tuple[int, int, str]]:
            found = agent.server.states().get("p")
            return [(one.processes, one.unwinding, one.reason) for one in (found.runtimes if found else ())]

        agent.until(lambda: told() == [(3, 2, "RuntimePending")], f"told: {told()}")
        (python,) = agent.server.states()["p"].runtimes
        assert python.message == "the program's libpython is not mapped yet"
        agent.stop()


def hidden(folder: str) -> tuple[str, ...]:
    """What begins a command in a mount namespace where nothing is in this folder."""
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh")


@pytest.mark.parametrize(
    ("folder", "reason", "remedy"),
    [
        ("/usr/lib/python3/dist-packages", "MechanismUnsupported", "python3-bpfcc"),
        ("/sys/kernel/btf", "KernelTooOld", "CONFIG_DEBUG_INFO_BTF"),
        ("/usr/include/linux", "CompileFailed", "linux-libc-dev"),
    ],
    ids=["bcc", "BTF", "headers"],
)
def test_a_node_lacks_something(start: Start, tmp_path: Path, folder: str, reason: str, remedy: str) -> None:
    """The agent goes on, and tells of each group why it is not traced there and what to do."""
    agent = start(under=hidden(folder), KERNELSPAN_CACHE=str(tmp_path / "objects"))
    with Pod("web-1") as pod:
        program(pod)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        found = agent.server.states()["p"]
        assert (found.reason, states(agent, "p")) == (reason, {"files": ("Failed", reason, found.message)})
        assert remedy in found.message.partition("; ")[2]
        agent.stop()


def test_a_program_that_the_verifier_refuses(start: Start, collector: Collector, tmp_path: Path) -> None:
    """A kept program was altered: the kernel refuses it, and what was wanted beside it goes on."""
    objects = tmp_path / "objects"
    event = {"name": "event", "mode": "Event", "tracepoint": EXEC}
    plans = [profile("good", **STATS), profile("p", probes=[event])]
    agent = start(KERNELSPAN_CACHE=str(objects))
    with Pod("web-1") as pod:
        mine = program(pod)
        pods = [pod.plan(every_container("good"), every_container("p"))]
        agent.follow(plans[:1], pods)
        before = set(objects.glob("*.json"))
        agent.follow(plans, pods)
        assert states(agent, "p")["event"][0] == "Attached"
        agent.stop()

        (kept,) = (path for path in set(objects.glob("*.json")) - before if "own" in path.read_text())
        for path in [kept]:
            _alter(path)
        agent = start(KERNELSPAN_CACHE=str(objects))
        agent.follow(plans, pods)
        state, reason, message = states(agent, "p")["event"]
        assert (state, reason) == ("Failed", "VerifierRejected")
        assert "R9" in message  # the verifier's own words
        assert states(agent, "good")["files"][0] == "Attached"
        agent.until_seen(collector, mine, "seen")
        agent.stop()


def _alter(path: Path) -> None:
    """Has each program of a kept module begin with `r0 = r9`, which nothing has been put into."""
    answer = json.loads(path.read_text())
    for module in answer["modules"].values():
        for built in module["programs"].values():
            code = base64.b64decode(built["instructions"])
            built["instructions"] = base64.b64encode(bytes([0xBF, 0x90, 0, 0, 0, 0, 0, 0]) + code[8:]).decode()
    path.write_text(json.dumps(answer))


def test_an_agent_without_its_capabilities(start: Start) -> None:
    """It stays, and each profile's status says which ones the chart, or who changed it, has to grant."""
    with PortReservation(1) as held:
        (number,) = held.ports
    limited = ("setpriv", "--bounding-set", "-all,+dac_read_search,+kill", "--inh-caps", "-all")
    agent = start("--listen", f"127.0.0.1:{number}", under=limited)
    with Pod("web-1") as pod:
        program(pod)
        agent.follow([], [])
        status, told = http_get(number, "/readyz")  # an update that takes its capabilities away goes no further
        assert (status, b"CAP_BPF" in told) == (HTTPStatus.SERVICE_UNAVAILABLE, True)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        found = agent.server.states()["p"]
        assert (found.reason, states(agent, "p")["files"][:2]) == ("PermissionDenied", ("Failed", "PermissionDenied"))
        missing, _, remedy = found.message.partition("; in Kubernetes: ")
        assert set(re.findall(r"CAP_\w+", missing)) == {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"}
        assert remedy == "securityContext.capabilities.add: [BPF, PERFMON, SYS_PTRACE]"
        agent.stop()
