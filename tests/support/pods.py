# SPDX-License-Identifier: Apache-2.0
"""Processes laid out as a pod's containers are: in cgroups of the kubelet's names, in namespaces of their own if wanted."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from kernelspan_api.control.control_pb2 import Container, MatchSet, PodPlan, Workload

_ROOTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))  # a hybrid host's, a v2 host's
_WAIT_SECONDS = 20.0
# Where kubelets and runtimes put a container, below a hierarchy's root; `slice` is the uid as systemd has it.
FORMS = {
    "containerd": "kubepods-besteffort-pod{slice}.slice/cri-containerd-{id}.scope",
    "CRI-O": "kubepods.slice/kubepods-pod{slice}.slice/crio-{id}.scope",
    "CRI-O, a group inside": "kubepods.slice/kubepods-burstable-pod{slice}.slice/crio-{id}.scope/container",
    "Docker": "kubepods.slice/kubepods-burstable-pod{slice}.slice/docker-{id}.scope",
    "cgroupfs": "kubepods/burstable/pod{uid}/{id}",
    "kind": "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-{id}.scope",
}


def cgroup_root() -> Path:
    """Where this machine's cgroup v2 hierarchy is."""
    return next(root for root in _ROOTS if (root / "cgroup.procs").exists())


def v1_root() -> Path | None:
    """Where this machine has systemd's own hierarchy of cgroup v1; None: it has none."""
    root = Path("/sys/fs/cgroup/systemd")
    return root if (root / "cgroup.procs").exists() else None


@dataclass(slots=True)
class Pod:
    """One pod with one container per name; use with `with`."""

    name: str
    namespace: str = "shop"
    containers: tuple[str, ...] = ("main",)
    labels: dict[str, str] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    form: str = FORMS["containerd"]
    root: Path = field(default_factory=cgroup_root)
    ids: dict[str, str] = field(init=False)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = {name: secrets.token_hex(32) for name in self.containers}

    def __enter__(self) -> Self:
        for name in self.containers:
            self.folder(name).mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        end = time.monotonic() + _WAIT_SECONDS
        for folder in self._folders():
            while folder.exists():
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                try:
                    folder.rmdir()
                except OSError:
                    if not self._is_own(folder):
                        break  # of another pod too
                    assert time.monotonic() < end
                    time.sleep(0.01)

    def _folders(self) -> list[Path]:
        """All that were made, the deepest first."""
        deepest = [self.folder(name) for name in self.containers]
        found = {each for one in deepest for each in (one, *one.parents) if self.root in each.parents}
        return sorted(found, key=lambda each: -len(each.parts))

    def _is_own(self, folder: Path) -> bool:
        return any(self.uid in part.replace("_", "-") for part in folder.parts)

    def folder(self, container: str) -> Path:
        """The container's cgroup."""
        return self.root / self.form.format(uid=self.uid, slice=self.uid.replace("-", "_"), id=self.ids[container])

    def plan(self, *matches: MatchSet, known: bool = True) -> PodPlan:
        """The pod in a plan. `known`: the kubelet has said its containers' ids."""
        return PodPlan(
            uid=self.uid,
            namespace=self.namespace,
            name=self.name,
            workload=Workload(kind="Deployment", name=self.name.rsplit("-", 1)[0]),
            containers=[Container(name=name, id=self.ids[name] if known else "") for name in self.containers],
            labels=self.labels,
            matches=matches,
        )

    def run(
        self, *command: str, container: str = "main", under: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a container: a process that is in its cgroup before it execs, as a runtime does it.

        `under`: what it is run by, such as unshare.
        """
        script = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        line = ["sh", "-c", script, str(self.folder(container)), *under, *command]
        process = subprocess.Popen(line, **({"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | options))
        self.started.append(process)
        return process


def every_container(profile_uid: str) -> MatchSet:
    """A profile that selects all of a pod."""
    return MatchSet(profile_uid=profile_uid, all_containers=True)


def line(process: subprocess.Popen[bytes], text: str = "") -> bytes:
    """Says a line to a program, and gives the line it answers."""
    stdin, stdout = process.stdin, process.stdout
    assert isinstance(stdin, IO) or stdin is not None
    assert stdout is not None
    stdin.write(text.encode() + b"\n")
    stdin.flush()
    return stdout.readline()
