# SPDX-License-Identifier: Apache-2.0
"""Paths of cgroups as the runtimes and drivers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.targets.cgroups import Place, place_of

UID = "3f0f8a43-0a5c-4c2e-9d7c-1c9e6a1b2c3d"
SLICE_UID = UID.replace("-", "_")
HASH = "d1b9e1a4c8e7f60123456789abcdef01"
ID = "5f" * 32
KIND = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # cgroup v2, systemd: containerd, CRI-O, cri-dockerd; guaranteed pods have no class in their path
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope", Place(UID, ID)),
        (f"0::/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope", Place(UID, ID)),
        (f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice/docker-{ID}.scope", Place(UID, ID)),
        (f"0::/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope/container", Place(UID, ID)),
        # cgroupfs, v1 and v2
        (f"0::/kubepods/burstable/pod{UID}/{ID}", Place(UID, ID)),
        (f"12:cpuset:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n0::/", Place(UID, ID)),
        (f"0::/kubepods/besteffort/pod{UID}/crio-{ID}", Place(UID, ID)),
        # a kind node, seen from the machine: below the node's own container, whose id is not the pod's
        (f"0::/docker/{'ab' * 32}{KIND}/kubelet-kubepods-besteffort-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope", Place(UID, ID)),
        (f"0::/system.slice/docker-{'ab' * 32}.scope/kubelet/kubepods/pod{UID}/{ID}", Place(UID, ID)),
        # seen from another cgroup namespace
        (f"0::/../../kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope", Place(UID, ID)),
        # a static pod
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope", Place(HASH, ID)),
        # systemd, or a runtime, inside the container: it is the outer one's
        (f"0::/kubepods/pod{UID}/{ID}/system.slice/docker-{'cd' * 32}.scope", Place(UID, ID)),
        # of the pod, of no container
        (f"0::/kubepods.slice/kubepods-pod{SLICE_UID}.slice", Place(UID, "")),
        (f"0::/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-conmon-{ID}.scope", Place(UID, "")),
        # a hybrid machine: the hierarchy that knows the container counts
        (f"3:cpu:/\n2:memory:/kubepods/pod{UID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n0::/", Place(UID, ID)),
        # of no pod
        ("0::/", None),
        ("", None),
        ("0::/user.slice/user-0.slice/session-1.scope", None),
        (f"0::/docker/{ID}", None),
        (f"0::/system.slice/docker-{ID}.scope", None),
        (f"0::/kubepods/podcast-{UID}/{ID}", None),
        (f"0::/kubepods/pod{UID[:-1]}/{ID}", None),
        ("nonsense\n:::\n1:2\n", None),
    ],
)  # fmt: skip
def test_forms(text: str, expected: Place | None) -> None:
    """One line, or one for each hierarchy."""
    assert place_of(line.split(":", 2)[-1] for line in text.splitlines()) == expected


@given(st.text(max_size=300))
def test_whatever_it_is_it_is_no_fault(text: str) -> None:
    """A process chooses the names of cgroups below its own."""
    place_of([text])
    assert place_of([f"/kubepods/pod{UID}/{ID}/{text}"]) == Place(UID, ID)
