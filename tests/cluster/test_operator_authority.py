# SPDX-License-Identifier: Apache-2.0
"""The authority is rotated under a running operator: agents that have what was published before are served all the while."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kernelspan_operator.services.authority import AUTHORITY_DAYS, PUBLISH_BEFORE_DAYS, SERVER_DAYS, SIGN_BEFORE_DAYS
from tests.support.agents import Agent
from tests.support.operators import Kubernetes, Operator, eventually, profile_path

SPACE = "authority"
NODE = "authority-1"
# Python imports a module of this name before anything else: the operator looks after its authority five times a second
# instead of each hour, and goes by a clock that is days behind the API server's, as many as a file says.
BEHIND = """
from pathlib import Path
from kernelspan_operator.services import certificates, kube
certificates.CHECK_SECONDS = 0.2
_now = kube.Kube.now
kube.Kube.now = lambda self: _now(self) - 86_400 * float(Path({file!r}).read_text())
"""
# Days ago: an authority is made, the next one is published, and is what signs today. What the server showed in the midst of
# it is good today as well: agents go by clocks that are right.
PUBLISHED = SERVER_DAYS - 4
MADE = PUBLISHED + AUTHORITY_DAYS - PUBLISH_BEFORE_DAYS + 5


@dataclass(frozen=True, slots=True)
class Ageing:
    """An operator whose days a test counts."""

    operator: Operator
    file: Path

    def day(self, ago: int) -> None:
        """From now on it is so many days ago."""
        newer = self.file.with_suffix(".new")
        newer.write_text(str(ago))
        newer.rename(self.file)


@pytest.fixture
def ageing(kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Ageing]:
    """One that makes an authority which is old by now."""
    kubernetes.namespace(SPACE)
    kubernetes.node(NODE)
    for kind in ("configmaps", "secrets"):
        kubernetes.delete(f"/api/v1/namespaces/kernelspan/{kind}/kernelspan-ca")
    (tmp_path / "sitecustomize.py").write_text(BEHIND.format(file=str(tmp_path / "days")))
    (tmp_path / "days").write_text(str(MADE))
    with Operator(kubernetes, tmp_path, environment={"PYTHONPATH": str(tmp_path)}) as running:
        yield Ageing(running, tmp_path / "days")
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.delete(f"/api/v1/namespaces/{SPACE}/pods/a")


def trusted(operator: Operator) -> list[x509.Certificate]:
    """What is published, the one that signs first."""
    return x509.load_pem_x509_certificates(operator.authority)


def signer(operator: Operator, authority: bytes) -> x509.Name:
    """Of whom the certificate is that the server shows to an agent which trusts these."""
    context = ssl.create_default_context(cadata=authority.decode())
    plain = socket.create_connection(("127.0.0.1", operator.port), timeout=60)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as shown:
        certificate = shown.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).issuer


def test_agents_follow_a_rotation(ageing: Ageing) -> None:
    """Published, then signing; a stream that is open stays open, and the old authority stays trusted until it expires."""
    operator = ageing.operator
    (first,) = trusted(operator)
    ageing.day(PUBLISHED)
    eventually(lambda: len(trusted(operator)) == 2)
    published = operator.authority
    assert trusted(operator)[0] == first
    following = trusted(operator)[1]
    assert signer(operator, published) == first.subject
    with Agent(operator, NODE, authority=published) as agent:
        agent.until_names({})
        assert SIGN_BEFORE_DAYS > AUTHORITY_DAYS - MADE > 0  # today
        ageing.day(0)
        eventually(lambda: trusted(operator) == [following, first])
        # Of those who have not seen the new ConfigMap yet, of those who have, and of those who trust nobody else.
        only = following.public_bytes(Encoding.PEM)
        for known in (published, operator.authority, only):
            eventually(lambda known=known: signer(operator, known) == following.subject)  # type: ignore[misc]
            with Agent(operator, "authority-2", authority=known) as other:
                other.until_names({})
        operator.kubernetes.pod(SPACE, "a", NODE)
        operator.kubernetes.apply(SPACE, "web")
        agent.until_names({"a": {"web"}})


def test_a_lost_authority_is_made_anew(ageing: Ageing) -> None:
    """Someone deletes the Secret, or writes something else into it: said, published, and used."""
    ageing.day(0)
    kubernetes, operator = ageing.operator.kubernetes, ageing.operator
    secret = "/api/v1/namespaces/kernelspan/secrets/kernelspan-ca"
    before = operator.authority
    kubernetes.delete(secret)
    eventually(lambda: operator.authority != before)
    made = operator.authority
    kubernetes.patch(secret, {"data": {"ca.key": "bm90aGluZw=="}})
    eventually(lambda: operator.authority != made)
    eventually(lambda: signer(operator, operator.authority) == trusted(operator)[0].subject)
    assert "authority.unreadable" in operator.log()
    with Agent(operator, NODE) as agent:
        agent.until_names({})
