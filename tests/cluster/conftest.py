# SPDX-License-Identifier: Apache-2.0
"""One control plane for the tests of this folder, with our definitions in it; it ends with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_api.resource import GROUP, KINDS
from tests.support.cluster import BINARIES, Cluster
from tests.support.fixtures import built
from tests.support.operators import Kubernetes, Operator
from tests.support.profile_api import NAMESPACE

CRDS = Path(__file__).resolve().parents[2] / "charts/kernelspan/files/crds"


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The control plane, with the definitions established and an empty namespace `shop`."""
    binaries = {name: built(name, "cluster", request) for name in BINARIES}
    with Cluster(binaries, tmp_path_factory.mktemp("cluster") / "plane") as plane:
        plane.kubectl("create", "-f", str(CRDS))
        names = [f"crd/{kind.lower()}s.{GROUP}" for kind in KINDS]
        plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=60s")
        plane.kubectl("create", "namespace", NAMESPACE)
        yield plane


@pytest.fixture(scope="module")
def kubernetes(cluster: Cluster) -> Kubernetes:
    """A test's own hand on it."""
    return Kubernetes(cluster)


@pytest.fixture(scope="module")
def operator(
    kubernetes: Kubernetes, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """An operator for the tests of a module, with the policy that the module calls POLICY."""
    policy = getattr(request.module, "POLICY", None)
    with Operator(kubernetes, tmp_path_factory.mktemp("operator"), policy=policy) as running:
        yield running
