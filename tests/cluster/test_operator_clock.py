# SPDX-License-Identifier: Apache-2.0
"""An operator whose node's clock is a day wrong: it goes by the API server's, which dated everything that expires."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.support.agents import Agent
from tests.support.operators import Kubernetes, Operator, eventually, profile_path
from tests.support.tokens import resigned

SPACE = "clock"
NODE = "clk-1"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
DAY = 86_400
# Python imports a module of this name before anything else: whoever asks for the time is told another.
WRONG = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {seconds}
time.time_ns = lambda: _time_ns() + {seconds} * 10**9
"""


@pytest.fixture(scope="module", params=[DAY, -DAY], ids=["ahead", "behind"])
def operator(
    kubernetes: Kubernetes, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One a day ahead, and one a day behind."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "sitecustomize.py").write_text(WRONG.format(seconds=request.param))
    kubernetes.namespace(SPACE)
    kubernetes.node(NODE)
    with Operator(kubernetes, folder, environment={"PYTHONPATH": str(folder)}) as running:
        assert abs(running.metric("clock_behind_seconds") + request.param) < 60  # the clock is wrong indeed
        yield running


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, operator: Operator) -> Iterator[None]:
    """Each test begins with no pod and no profile."""
    yield
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.cluster.request("DELETE", PODS, {"gracePeriodSeconds": 0})
    eventually(lambda: operator.metric("selected_pods") == 0)


def test_profiles_end_when_they_should(kubernetes: Kubernetes, operator: Operator) -> None:
    """Neither a day early nor a day late; what the status dates is dated right."""
    kubernetes.pod(SPACE, "a", NODE)
    kubernetes.apply(SPACE, "long", ttlSeconds=3600)
    with Agent(operator, NODE) as agent:
        agent.until_names({"a": {"long"}})
        kubernetes.apply(SPACE, "short", ttlSeconds=10)
        agent.until_names({"a": {"long", "short"}})
        agent.until_names({"a": {"long"}})
        kubernetes.says(SPACE, "short", "False", "Expired")
        kubernetes.says(SPACE, "long", "True", "Ready")
    for one in kubernetes.profile(SPACE, "long")["status"]["conditions"]:
        dated = datetime.fromisoformat(one["lastTransitionTime"])
        assert abs((datetime.now(UTC) - dated).total_seconds()) < 120


def test_tokens_are_good_until_they_expire(kubernetes: Kubernetes, operator: Operator) -> None:
    """One of ten minutes is taken; one of some seconds ends its stream, and is refused after that."""
    with Agent(operator, NODE, kubernetes.agent_token(NODE, seconds=600)) as agent:
        agent.until_names({})
    key = kubernetes.cluster._pki.service_accounts.key
    token = resigned(kubernetes.agent_token(NODE), key, exp=int(time.time()) + 15)
    with Agent(operator, NODE, token) as short:
        short.until_names({})
        assert short.end() is None
    with Agent(operator, NODE, token) as late:
        assert late.end() is not None


def test_its_certificate_is_good_to_agents(kubernetes: Kubernetes, operator: Operator) -> None:
    """Also an authority that it makes itself: agents have clocks that are right."""
    operator.process.kill()
    for kind in ("configmaps", "secrets"):
        kubernetes.delete(f"/api/v1/namespaces/kernelspan/{kind}/kernelspan-ca")
    operator.process.start()
    with Agent(operator, NODE) as agent:
        agent.until_names({})
