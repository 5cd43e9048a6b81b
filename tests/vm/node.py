# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm.node PORT FOLDER: a node of a cluster, in a guest. It runs an agent, and containers as a kubelet's
runtime does; told what to do, line by line, by a test that listens on this port of the machine around it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self

from tests.support.pods import Pod, line
from tests.support.vm import HOST

SERVICE = "kernelspan-operator"  # a name in the operator's certificate
PROGRAM = "/srv/app.py"  # only in the container's own files
PYTHON = "/usr/bin/python3"
_WAIT_SECONDS = 120.0
# A container's own root: this machine's files, over /srv what only the container has. It runs in namespaces of each kind.
_CONTAINER = """set -e
root=/run/root-$HOSTNAME
mkdir -p $root
mount --bind / $root
mount -t tmpfs none $root/srv
printf %s "$PROGRAM" >$root/srv/app.py
mount -t proc proc $root/proc
cd $root
pivot_root . .
umount -l .
hostname "$HOSTNAME"
ip link set lo up
unset HOSTNAME PROGRAM
exec "$@"
"""
_NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--cgroup")


class Node:
    """What it runs; use with `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._agent: subprocess.Popen[bytes] | None = None
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def agent(self, *, name: str, token: str, authority: str, operator: int, collector: int) -> None:
        """Starts the agent. The operator and the collector are servers of the machine around."""
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write(f"\n{HOST} {SERVICE}\n")
        Path("/run/token").write_text(token)
        Path("/run/ca.crt").write_text(authority)
        command = [str(Path(sys.executable).with_name("kernelspan")), "--log-level", "info", "agent"]
        command += [
            "--operator",
            f"{SERVICE}:{operator}",
            "--node",
            name,
            "--token",
            "/run/token",
            "--ca",
            "/run/ca.crt",
        ]
        command += ["--state", "/run/state", "--secrets", "/run/memory", "--otlp", f"{HOST}:{collector}"]
        with (self._folder / "agent.log").open("wb") as log:
            self._agent = subprocess.Popen(command, stderr=log)
        self._stack.callback(self._agent.kill)

    def container(self, *, namespace: str, pod: str, uid: str, name: str, program: str) -> str:
        """Starts a program in a container of a pod; gives the container's id."""
        made = self._stack.enter_context(Pod(pod, namespace, (name,), uid=uid))
        environ = os.environ | {"HOSTNAME": pod, "PROGRAM": program}
        command = ["sh", "-c", _CONTAINER, "sh", PYTHON, "-S", PROGRAM]
        process = made.run(*command, container=name, under=_NAMESPACES, env=environ)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        self._programs[pod] = process
        return made.ids[name]

    def say(self, *, pod: str, text: str) -> str:
        """A line to a pod's program; gives its answer."""
        return line(self._programs[pod], text).decode().strip()

    def end(self) -> int:
        """Ends the agent as a kubelet does; gives its exit status."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGTERM)
        return self._agent.wait(_WAIT_SECONDS)

    def release(self) -> str:
        """The kernel's."""
        return os.uname().release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def serve(node: Node, lines: IO[str]) -> None:
    """Does what each line says, {"do": NAME, ...}, and answers with {"gave": VALUE}, until there are no more."""
    for text in lines:
        told: dict[str, Any] = json.loads(text)
        lines.write(json.dumps({"gave": getattr(node, told.pop("do"))(**told)}) + "\n")
        lines.flush()


def main(port: int, folder: Path) -> None:
    """Everything."""
    with (
        socket.create_connection((HOST, port)) as connection,
        connection.makefile("rw", encoding="utf-8") as lines,
        Node(folder) as node,
    ):
        serve(node, lines)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
