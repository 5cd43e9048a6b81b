# SPDX-License-Identifier: Apache-2.0
"""One control plane for the tests of this folder, with our definitions in it; it ends with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import BINARIES, Cluster, with_definitions
from tests.support.fixtures import built
from tests.support.operators import Kubernetes, Operator
from tests.support.profile_api import NAMESPACE


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The control plane, with the definitions established and an empty namespace `shop`."""
    binaries = {name: built(name, "cluster", request) for name in BINARIES}
    with with_definitions(binaries, tmp_path_factory.mktemp("cluster") / "plane", NAMESPACE) as plane:
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
