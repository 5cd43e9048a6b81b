# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole product: docker, a cluster, the images in it. Each is made once and taken away at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from harness.cluster import KindCluster, alone
from harness.node import node_image
from harness.product import Product, Shop
from tests.support.helm import Helm
from tools.build import build
from tools.images.docker import Docker, docker
from tools.images.product import make

pytest_plugins = ["tests.support.tiers"]

Say = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --keep."""
    parser.addoption("--keep", action="store_true", help="leave the cluster, and go on with one that was left")


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Says at once what takes long, with the seconds since the start."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    started = time.monotonic()

    def speak(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"\ne2e: {time.monotonic() - started:5.0f} s  {text}", end="", flush=True)

    return speak


@pytest.fixture(scope="session")
def keep(request: pytest.FixtureRequest) -> bool:
    """Whether the cluster outlives the run."""
    return bool(request.config.getoption("--keep"))


@pytest.fixture(scope="session")
def daemon(say: Say, keep: bool) -> Iterator[Docker]:
    """A docker that answers."""
    with docker(say, keep=keep) as found:
        yield found


@pytest.fixture(scope="session")
def cluster(daemon: Docker, say: Say, keep: bool) -> Iterator[KindCluster]:
    """One control plane and two workers with a network; nothing of ours in it."""
    with alone(say):
        image = node_image(daemon, say)
        made = KindCluster(daemon, say)
        try:
            if not (keep and made.stands(image)):
                made.create(image)
            yield made
        finally:
            if not keep:
                made.delete()


@pytest.fixture(scope="session")
def images(daemon: Docker, cluster: KindCluster, say: Say) -> dict[str, str]:
    """Every image of ours by its short name, and on every node."""
    made = make(daemon, (), say)
    for name in ("operator", "agent"):
        size = int(daemon.run("image", "inspect", "--format", "{{.Size}}", made[name]))
        say(f"figure: image of the {name}, {size / 1e6:.0f} MB")
    cluster.load(*made.values())
    return made


@pytest.fixture(scope="session")
def product(
    cluster: KindCluster,
    daemon: Docker,
    images: dict[str, str],
    say: Say,
    keep: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Product]:
    """The chart's release, ready, with Jaeger."""
    helm = Helm(build(("helm",), say)["helm"], tmp_path_factory.mktemp("helm"), cluster.kubeconfig)
    made = Product(cluster, helm, say)
    seconds = made.install({name: daemon.image_id(image).rpartition(":")[2] for name, image in images.items()})
    say(f"figure: helm install to ready {seconds:.1f} s; line 60 s: {'held' if seconds < 60 else 'NOT held'}")
    yield made
    if not keep:
        made.uninstall()


@pytest.fixture(scope="session")
def shop(cluster: KindCluster, daemon: Docker, images: dict[str, str]) -> Shop:
    """The sample application at work."""
    made = Shop(cluster)
    made.start(images["shop"], daemon.image_id(images["shop"]))
    return made
