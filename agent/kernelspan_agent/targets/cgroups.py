# SPDX-License-Identifier: Apache-2.0
"""Which pod and which container a process is of, by the path of its cgroup. Pure: paths in, ids out.

Forms (kubelet: pkg/kubelet/cm, cgroupDriver systemd and cgroupfs; the runtimes' own names of scopes):
systemd   …/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope
cgroupfs  …/kubepods/burstable/pod<uid>/<id>, …/pod<uid>/crio-<id>
The kubelet of a kind node puts `kubelet-` or `kubelet/` in front. A static pod has a hash of 32 hex digits for a uid.
A process between cgroups of a container (systemd or a nested runtime inside it) is of that container: the first container
below the pod counts, not the deepest. CRI-O's conmon and a pod's sandbox are none of the pod's containers by their id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}"
# A slice's name repeats its parents' names with dashes between; a folder's is `pod` and the uid alone.
_POD = re.compile(rf"(?:(?:[a-z]+-)*kubepods(?:-burstable|-besteffort)?-pod({_UID})\.slice|pod({_UID}))")
_CONTAINER = re.compile(r"(?:(?:cri-containerd|crio|docker|libpod)-)?([0-9a-f]{64})(?:\.scope)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is. `container_id` is empty for what is of the pod and of no container."""

    pod_uid: str  # with dashes, or the hash of a static pod
    container_id: str


def place_of(paths: Iterable[str]) -> Place | None:
    """From a process's cgroups, of v1, v2, or both; None: of no pod.

    The hierarchy that says most is believed: on a hybrid machine some lines are the root's.
    """
    best: Place | None = None
    for path in paths:
        if (found := _place(path)) is not None:
            if found.container_id:
                return found
            best = best or found
    return best


def _place(path: str) -> Place | None:
    parts = path.split("/")
    for index, part in enumerate(parts):
        if (pod := _POD.fullmatch(part)) is not None:
            uid = (pod[1] or pod[2]).replace("_", "-")
            below = parts[index + 1] if index + 1 < len(parts) else ""
            container = _CONTAINER.fullmatch(below)
            return Place(uid, container[1] if container else "")
    return None
