# SPDX-License-Identifier: Apache-2.0
"""helm, and a control plane that notes every call, without anything of ours in it at first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import BINARIES, Cluster
from tests.support.fixtures import built
from tests.support.helm import CHART, NAMESPACE, RELEASE, Helm, Object, served


@pytest.fixture(scope="session")
def helm_binary(request: pytest.FixtureRequest) -> Path:
    """helm's program, built if it is not there."""
    return built("helm", "chart", request)


@pytest.fixture(scope="session")
def helm(helm_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """For what needs no cluster."""
    return Helm(helm_binary, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def plain(helm: Helm) -> list[Object]:
    """What a newcomer installs."""
    return helm.render()


@pytest.fixture(scope="session")
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that keeps an audit log, with nothing installed."""
    binaries = {name: built(name, "chart", request) for name in BINARIES}
    with Cluster(binaries, tmp_path_factory.mktemp("cluster") / "plane", audit=True) as running:
        for name in (NAMESPACE, "shop", "pay"):
            running.kubectl("create", "namespace", name)
            running.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=60s")
        yield running


@pytest.fixture(scope="session")
def releases(helm_binary: Path, plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm on that control plane."""
    return Helm(helm_binary, tmp_path_factory.mktemp("releases"), plane.kubeconfig)


@pytest.fixture
def definitions(plane: Cluster, helm: Helm) -> None:
    """The definitions as this chart renders them, if they are not there; belonging to no release."""
    objects = [one for one in helm.render() if one["kind"] == "CustomResourceDefinition"]
    plane.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        "-",
        document={"apiVersion": "v1", "kind": "List", "items": objects},
    )
    served(plane)


@pytest.fixture(scope="module")
def installed(releases: Helm, plane: Cluster) -> Iterator[Helm]:
    """A release for the tests of a module: with Secrets of `shop`, and nothing of it left afterwards."""
    options = ["--set=policy.secretNamespaces={shop}", f"--namespace={NAMESPACE}", "--take-ownership"]
    releases.run("install", RELEASE, CHART, *options)
    served(plane)
    yield releases
    releases.run("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait")
