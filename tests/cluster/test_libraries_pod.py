# SPDX-License-Identifier: Apache-2.0
"""`kernelspan libraries --pod`: the pod by a real API server, its processes by the cgroup that they are really in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operators import Kubernetes
from tests.support.pods import Pod
from tests.support.venvs import library_venv

pytestmark = pytest.mark.root
SPACE = "loaded"
PROGRAM = """
import sys, yaml
print("ready", flush=True)
while True:
    sys.stdin.readline()
    for _ in range(50):
        with open("/etc/hostname") as file:
            yaml.safe_load(file)
"""


def libraries(pod: str, kubeconfig: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("KERNELSPAN_", "KUBE", "OTEL_"))}
    command = [Path(sys.executable).parent / "kernelspan", "libraries", "--pod", pod, f"--kubeconfig={kubeconfig}"]
    return subprocess.run([*command, *options], env=plain, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def config(kubernetes: Kubernetes) -> Iterator[Path]:
    """The administrator's kubeconfig, and a namespace with two nodes."""
    kubernetes.namespace(SPACE)
    kubernetes.node("lib-1")
    kubernetes.node("lib-2")
    yield kubernetes.cluster.kubeconfig
    kubernetes.delete("/api/v1/nodes/lib-1")
    kubernetes.delete("/api/v1/nodes/lib-2")


def test_a_pod_of_this_node(kubernetes: Kubernetes, config: Path) -> None:
    """All of its processes and no others, whatever their container; what they have loaded, and what they do."""
    python = library_venv() / "bin" / "python"
    uid = kubernetes.pod(SPACE, "here", "lib-1")["metadata"]["uid"]
    with Pod("here", SPACE, ("web", "side"), uid=uid) as pod, Pod("other", SPACE) as other:
        programs = [pod.run(str(python), "-c", PROGRAM, container=name) for name in ("web", "side")]
        elsewhere = other.run(str(python), "-c", PROGRAM)
        for program in [*programs, elsewhere]:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
        still = libraries(f"{SPACE}/here", config, "--json", "--duration", "0")
        assert still.returncode == 0, still.stderr
        command = [Path(sys.executable).parent / "kernelspan", "libraries", "--pod", f"{SPACE}/here"]
        with subprocess.Popen(
            [*command, f"--kubeconfig={config}", "--duration", "3", "--json"], stdout=subprocess.PIPE, text=True
        ) as watching:
            while watching.poll() is None:
                for program in [*programs, elsewhere]:
                    assert program.stdin is not None
                    program.stdin.write(b"\n")
                    program.stdin.flush()
                time.sleep(0.1)
            assert watching.stdout is not None
            moving = json.loads(watching.stdout.read())
    loaded = json.loads(still.stdout)
    assert {each["pid"] for each in loaded["processes"]} == {each.pid for each in programs}
    (yaml,) = [each for each in loaded["libraries"] if each["name"] == "PyYAML"]
    assert ("module" in yaml["loaded"], yaml["operations"], loaded["accounting"]) == (True, 0, None)
    (yaml,) = [each for each in moving["libraries"] if each["name"] == "PyYAML"]
    assert yaml["operations"] > 50
    assert {each["folder"] for each in yaml["folders"]} == {"/etc/"}


def test_a_pod_that_is_elsewhere_or_nowhere(kubernetes: Kubernetes, config: Path) -> None:
    """2, with the node to go to; there is no such pod: 2."""
    kubernetes.pod(SPACE, "there", "lib-2")
    found = libraries(f"{SPACE}/there", config)
    assert (found.returncode, found.stdout) == (2, "")
    assert "NoMatchingProcesses: pod loaded/there has no process on this machine: it is on node lib-2" in found.stderr
    found = libraries(f"{SPACE}/nowhere", config)
    assert (found.returncode, found.stdout) == (2, "")
    assert "NotFound: there is no pod nowhere in namespace loaded" in found.stderr
