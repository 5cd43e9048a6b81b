# SPDX-License-Identifier: Apache-2.0
"""The images are what they say: no tools to build or install with, nothing of where their parts came from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.cluster import KindCluster
from tools.images.docker import Docker
from tools.images.product import version

_ADDRESS = re.compile(r"https?://[\w.-]+(?:/\S*)?", re.IGNORECASE)


def _run(daemon: Docker, image: str, *command: str) -> str:
    """What a shell command says in the image, with a root that cannot be written to and no network."""
    options = ["--rm", "--read-only", "--network=none", "--entrypoint=/bin/sh"]
    return daemon.run("run", *options, image, "-c", *command)


@pytest.mark.parametrize("part", ["operator", "agent"])
def test_nothing_builds_or_installs(daemon: Docker, images: dict[str, str], part: str) -> None:
    """No compiler, no package manager but the list of what is there, no pip and nothing that it left."""
    for name in ("gcc", "cc", "make", "clang", "apt-get", "pip", "pip3", "perl", "curl", "wget"):
        assert _run(daemon, images[part], f"command -v {name} || true") == ""
    assert (
        _run(daemon, images[part], "find / -xdev -iname 'pip*' -path '*site-packages/pip*' 2>/dev/null || true") == ""
    )
    assert _run(daemon, images[part], "find / -xdev -name '*.whl' -o -xdev -name .cache 2>/dev/null || true") == ""


@pytest.mark.parametrize("part", ["operator", "agent"])
def test_nothing_says_where_it_came_from(daemon: Docker, images: dict[str, str], part: str) -> None:
    """Neither apt's nor pip's places are configured, and no package remembers one."""
    assert _run(daemon, images[part], "ls /etc/apt /var/lib/apt/lists /etc/pip.conf 2>/dev/null || true") == ""
    remembered = "find /opt/kernelspan -name direct_url.json -exec cat {} +"
    assert [url for url in _ADDRESS.findall(_run(daemon, images[part], remembered)) if url] == []


@pytest.mark.parametrize("part", ["operator", "agent"])
def test_packages_are_the_locked_ones(daemon: Docker, images: dict[str, str], part: str) -> None:
    """Exactly what the lock names, and the project."""
    lock = (Path(__file__).parents[1] / f"requirements/{part}.txt").read_text("utf-8")
    locked = {f"{_plain(name)} {number}" for name, number in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)}
    listing = (
        "from importlib.metadata import distributions as d; print(*(f'{x.name} {x.version}' for x in d()), sep='\\n')"
    )
    said = _run(daemon, images[part], f'/opt/kernelspan/bin/python -c "{listing}"')
    found = {f"{_plain(name)} {number}" for name, number in (line.split() for line in said.splitlines())}
    assert found == locked | {f"kernelspan {version()}"}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_operator_is_nobody(daemon: Docker, images: dict[str, str]) -> None:
    """Its user is not root, and it starts with a root that cannot be written to, also under another user."""
    assert _run(daemon, images["operator"], "id -u") == "65532"
    options = ["--rm", "--read-only", "--network=none"]
    for user in ("65532:65532", "1000680000:0"):
        assert version() in daemon.run("run", *options, f"--user={user}", images["operator"], "--version")


@pytest.mark.parametrize("part", ["operator", "agent"])
def test_labels(daemon: Docker, images: dict[str, str], part: str) -> None:
    """What the image is, by the names of the image specification."""
    labels = json.loads(daemon.run("image", "inspect", "--format", "{{json .Config.Labels}}", images[part]))
    found = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert found["title"] == f"kernelspan-{part}"
    assert found["version"] == version()
    assert re.fullmatch(r"[0-9a-f]{40}", found["revision"])
    assert found["licenses"] == "Apache-2.0"
    assert found["description"]


def test_the_agent_has_what_it_compiles_with(daemon: Docker, images: dict[str, str]) -> None:
    """bcc of the distribution's own Python, the kernel's headers, authorities for TLS, the kernel programs' source."""
    assert _run(daemon, images["agent"], "/usr/bin/python3 -c 'import bcc; print(bcc.__version__)'")
    assert _run(daemon, images["agent"], "ls /usr/include/linux/bpf.h /etc/ssl/certs/ca-certificates.crt")
    assert "core" in _run(daemon, images["agent"], "kernelspan render --help; find /opt/kernelspan -name '*.bpf.c'")


def test_every_node_has_them(cluster: KindCluster, images: dict[str, str]) -> None:
    """`make images KIND=` gave all of them to each node."""
    for node in cluster.nodes():
        have = cluster.images(node.name)
        assert [image for image in images.values() if not any(name.endswith(f"/{image}") for name in have)] == []
