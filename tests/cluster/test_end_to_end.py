# SPDX-License-Identifier: Apache-2.0
"""All of it but a kubelet: a profile is applied to a real API server, the operator's plan reaches a real agent on this
machine's kernel, and a real collector gets the spans of a process in a pod's cgroup; the status says so.

The test plays the kubelet: it makes the pod's cgroup with the uid that the API server gave, and says the container's id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.otlp_json import ReceivedSpan
from tests.support.pods import Pod, line
from tests.support.runs import UNLIMITED
from tests.support.server import ServerError

pytestmark = pytest.mark.root
PYTHON = "/usr/bin/python3"
NODE, SPACE = "here", "end-to-end"
DEAD_SECONDS = float(os.environ.get("KERNELSPAN_OPERATOR_DEAD", "8"))  # 600: as long as is promised
PROGRAM = """
import os, sys
def look(name):
    try: os.stat("/mark/" + name)
    except OSError: pass
print("ready", flush=True)
for line in sys.stdin:
    look(line.strip())
    print("done", flush=True)
"""

# Looks at one mark, again and again, until it is told that this was seen; then at one after the other until it is asked to
# end, and says at how many.
LOAD = """
import os, sys, threading, time
known, ended = threading.Event(), threading.Event()
threading.Thread(target=lambda: [(sys.stdin.readline(), each.set()) for each in (known, ended)], daemon=True).start()
def look(mark):
    try: os.stat(f"/mark/{sys.argv[1]}{mark}")
    except OSError: pass
    time.sleep(0.01)
print("ready", flush=True)
while not known.is_set():
    look("warm")
number = 0
while not ended.is_set():
    look(number)
    number += 1
print(number, flush=True)
"""


@pytest.fixture
def agent(
    operator: Operator, kubernetes: Kubernetes, collector: Collector, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The agent of node NODE, with a token as the kubelet projects it."""
    kubernetes.namespace(SPACE)
    kubernetes.node(NODE)
    (tmp_path / "token").write_text(kubernetes.agent_token(NODE))
    (tmp_path / "ca.crt").write_bytes(operator.authority)
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "load.py").write_text(LOAD)
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [
                Path(sys.executable).parent / "kernelspan", "--log-level", "info", "agent",
                "--operator", f"localhost:{operator.port}", "--node", NODE, "--token", tmp_path / "token",
                "--ca", tmp_path / "ca.crt", "--state", tmp_path / "state", "--secrets", tmp_path / "memory",
                "--otlp", collector.grpc_endpoint,
            ],
            stderr=log,
            env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_pod(kubernetes: Kubernetes, name: str, folder: Path) -> Iterator[tuple[Pod, subprocess.Popen[bytes]]]:
    """A pod of the API's with a process on this machine."""
    made = kubernetes.pod(SPACE, name, NODE, labels={"app": name})
    with Pod(name, SPACE, ("web",), uid=made["metadata"]["uid"]) as pod:
        kubernetes.kubelet(made, web=pod.ids["web"])
        process = pod.run(PYTHON, "-S", str(folder / "app.py"), container="web")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield pod, process
    kubernetes.delete(f"/api/v1/namespaces/{SPACE}/pods/{name}")


def seen(collector: Collector, process: subprocess.Popen[bytes], mark: str) -> ReceivedSpan:
    """The first span of a mark that the process makes again and again."""

    def look() -> ReceivedSpan | None:
        line(process, mark)
        found = (span for span in collector.spans() if span.attributes.get("file.path") == f"/mark/{mark}")
        return next(found, None)

    found = eventually(look, 60)
    assert found is not None
    return found


def test_from_a_profile_to_its_spans_and_status(
    agent: subprocess.Popen[bytes], kubernetes: Kubernetes, collector: Collector, tmp_path: Path
) -> None:
    """Applied, traced, said; changed, traced anew; deleted, and nothing more is seen."""
    with (
        running_pod(kubernetes, "web-1", tmp_path) as (pod, process),
        running_pod(kubernetes, "idle-1", tmp_path) as (_, idle),
    ):
        selector = {"matchLabels": {"app": "web-1"}}
        kubernetes.apply(SPACE, "web", podSelector=selector, files={"operations": ["Stat"]}, limits=UNLIMITED)
        kubernetes.says(SPACE, "web", "True", "Ready")
        span = seen(collector, process, "first")
        line(idle, "never")
        assert span.resource["k8s.pod.uid"] == pod.uid
        assert (span.resource["k8s.node.name"], span.resource["k8s.namespace.name"]) == (NODE, SPACE)
        assert (span.resource["k8s.pod.name"], span.resource["k8s.container.name"]) == ("web-1", "web")
        last = seen(collector, process, "second")
        assert last.attributes["code.function.name"] == "__main__.look"
        assert last.attributes["code.file.path"] == str(tmp_path / "app.py")
        status = eventually(lambda: _exporting(kubernetes, "web"), 240)
        assert status["summary"] | {"probesAttached": 0} == {
            "pods": 1, "processes": 1, "nodesReady": 1, "nodesDesired": 1, "probesAttached": 0, "probesFailed": 0,
        }  # fmt: skip
        assert status["runtimes"] == [{"runtime": "Python", "processes": 1, "unwinding": 1}]
        assert status["events"]["dropped"] == 0

        # paused, and on again
        kubernetes.patch(f"{profile_path(SPACE)}/web", {"spec": {"paused": True}})
        kubernetes.says(SPACE, "web", "False", "Paused")
        kubernetes.patch(f"{profile_path(SPACE)}/web", {"spec": {"paused": False}})
        kubernetes.says(SPACE, "web", "True", "Ready")
        seen(collector, process, "third")

        kubernetes.delete(f"{profile_path(SPACE)}/web")
        eventually(lambda: not _still_seen(collector, process), 60)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
    assert not [span for span in collector.spans() if span.attributes.get("file.path") == "/mark/never"]


def loaded(collector: Collector, pod: Pod, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A program that looks at marks of that name without end, from when it is seen to."""
    process = pod.run(PYTHON, "-S", str(folder / "load.py"), name, container="web")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    eventually(lambda: any(span.attributes.get("file.path") == f"/mark/{name}warm" for span in collector.spans()))
    process.stdin.write(b"known\n")
    process.stdin.flush()
    return process


def marks(collector: Collector, name: str) -> Counter[int]:
    """Which marks of that name were seen, and how often each."""
    paths = (str(span.attributes.get("file.path", "")) for span in collector.spans())
    mine = (path.removeprefix(f"/mark/{name}") for path in paths if path.startswith(f"/mark/{name}"))
    return Counter(int(mark) for mark in mine if mark != "warm")


def test_no_operator_for_long_under_load(
    agent: subprocess.Popen[bytes],
    kubernetes: Kubernetes,
    operator: Operator,
    collector: Collector,
    tmp_path: Path,
) -> None:
    """Not one operation is lost or told twice, what starts meanwhile is traced, and a profile can be deleted."""
    stats = {"files": {"operations": ["Stat"]}, "limits": UNLIMITED}
    with (
        running_pod(kubernetes, "load-1", tmp_path) as (pod, process),
        running_pod(kubernetes, "other-1", tmp_path) as (_, other),
    ):
        kubernetes.apply(SPACE, "stays", podSelector={"matchLabels": {"app": "load-1"}}, **stats)
        kubernetes.apply(SPACE, "goes", podSelector={"matchLabels": {"app": "other-1"}}, **stats)
        for name in ("stays", "goes"):
            kubernetes.says(SPACE, name, "True", "Ready")
        seen(collector, process, "first")
        seen(collector, other, "other")
        before = loaded(collector, pod, tmp_path, "before-")
        operator.process.kill()
        died = time.monotonic()
        kubernetes.cluster.kubectl("delete", "tprof/goes", f"--namespace={SPACE}", "--timeout=60s")
        meanwhile = loaded(collector, pod, tmp_path, "meanwhile-")
        seen(collector, other, "still")  # its agent cannot know
        time.sleep(max(died + DEAD_SECONDS - time.monotonic(), 0))
        operator.process.start()
        kubernetes.says(SPACE, "stays", "True", "Ready")
        eventually(lambda: not _still_seen(collector, other), 60)
        counts = {"before-": int(line(before)), "meanwhile-": int(line(meanwhile))}
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
        for name, count in counts.items():
            assert count > DEAD_SECONDS
            found = marks(collector, name)
            assert set(found.values()) == {1}
            assert set(range(count)) == set(found), (name, count, len(found))
    print(f"{DEAD_SECONDS:g} s without an operator: {counts} operations")
    kubernetes.delete(f"{profile_path(SPACE)}/stays")


def _exporting(kubernetes: Kubernetes, name: str) -> dict[str, Any] | None:
    status: dict[str, Any] = kubernetes.profile(SPACE, name).get("status", {})
    return status if status.get("events", {}).get("exported") and status.get("runtimes") else None


_marks = iter(range(1_000_000))


def _still_seen(collector: Collector, process: subprocess.Popen[bytes]) -> bool:
    """Whether a mark made now is seen within a second: the tracer holds an operation no longer than that."""
    mark = f"after-{next(_marks)}"
    line(process, mark)
    with contextlib.suppress(ServerError):
        collector.wait_for_spans(
            1, timeout_seconds=1.5, where=lambda span: span.attributes.get("file.path") == f"/mark/{mark}"
        )
        return True
    return False
