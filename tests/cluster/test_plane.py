# SPDX-License-Identifier: Apache-2.0
"""The control plane that the other tests stand on: what its fixtures claim is tried here."""

from __future__ import annotations

import re
import time

from kernelspan_api.resource import API_VERSION
from tests.support.cluster import Cluster
from tests.support.profile_api import path, profile
from tools.families import TOOLS_FOLDER

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.1


def test_it_is_the_version_that_is_pinned(cluster: Cluster) -> None:
    """All programs say it: what decides by the version (features, skew) decides as in a real cluster."""
    pinned = re.search(
        r"^\s*k8s\.io/kubernetes (v\S+)", (TOOLS_FOLDER / "kubernetes/go.mod").read_text("utf-8"), re.MULTILINE
    )
    assert pinned
    assert cluster.request("GET", "/version").body["gitVersion"] == pinned[1]
    assert cluster.kubectl("version", "--client").stdout.splitlines()[0].endswith(pinned[1])


def test_controllers_work(cluster: Cluster) -> None:
    """A new namespace gets its service account; a deleted one goes, and its profiles with it."""
    cluster.kubectl("create", "namespace", "passing")
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "--namespace=passing", "--timeout=60s")
    cluster.kubectl("create", "-f", "-", "--namespace=passing", document=profile({"files": {}}))
    assert cluster.kubectl("get", "tprof", "x", "--namespace=passing", "-o", "name").stdout
    cluster.kubectl("delete", "namespace", "passing", "--timeout=60s")
    assert cluster.request("GET", f"/apis/{API_VERSION}/namespaces/passing/traceprofiles/x").status == 404


def test_api_server_comes_back_with_what_it_had(cluster: Cluster) -> None:
    """It can be ended and started again, on its port: profiles and definitions are still there."""
    assert cluster.request("POST", path("TraceProfile"), profile({"files": {}}, "kept")).status == 201
    cluster.apiserver.kill()  # asked to end it waits for those who watch
    cluster.apiserver.start()
    deadline = time.monotonic() + _WAIT_SECONDS
    while (answer := cluster.request("GET", path("TraceProfile", "kept"))).status != 200:
        assert time.monotonic() < deadline, answer  # definitions are served a little after it calls itself ready
        time.sleep(_POLL_SECONDS)
    assert cluster.request("DELETE", path("TraceProfile", "kept")).status == 200
