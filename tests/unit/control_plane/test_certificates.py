# SPDX-License-Identifier: Apache-2.0
"""Our authority: made once, kept, rotated so that no agent meets a certificate that it cannot know."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from kernelspan_operator.services.authority import Authorities, advanced, needs_renewal, server_pair
from kernelspan_operator.services.certificates import Certificates
from kernelspan_operator.services.kube import Kube
from tests.support.apiserver import api_server

START = datetime(2026, 1, 1, tzinfo=UTC)
SECRETS = "/api/v1/namespaces/kernelspan/secrets"
CONFIG_MAPS = "/api/v1/namespaces/kernelspan/configmaps"


def test_a_life_of_three_years() -> None:
    """Each day: what signs has been published for a month at least, and what was signed yesterday is still trusted."""
    authorities = advanced(None, START)
    server = server_pair(authorities.current, ["localhost"], START)
    published: dict[bytes, datetime] = {authorities.current.certificate: START - timedelta(days=99)}
    seen = {authorities.current.certificate}
    for day in range(3 * 365):
        now = START + timedelta(days=day)
        authorities = advanced(authorities, now)
        for certificate in (authorities.current, *([authorities.next] if authorities.next else [])):
            published.setdefault(certificate.certificate, now)
        seen.add(authorities.current.certificate)
        assert now - published[authorities.current.certificate] >= timedelta(days=29)
        if needs_renewal(server, authorities.current, now):
            server = server_pair(authorities.current, ["localhost"], now)
        leaf = x509.load_pem_x509_certificate(server.certificate)
        assert leaf.not_valid_before_utc < now < leaf.not_valid_after_utc
        trusted = x509.load_pem_x509_certificates(authorities.bundle())
        (issuer,) = [one for one in trusted if one.subject == leaf.issuer]
        leaf.verify_directly_issued_by(issuer)
        assert all(one.not_valid_after_utc > now for one in trusted)
    assert len(seen) >= 4


@pytest.mark.parametrize("hours", [-23, 0, 23])
def test_clocks_of_nodes_may_differ(hours: int) -> None:
    """What has just been made is good to an agent whose clock is most of a day behind, or ahead."""
    authorities = advanced(None, START)
    there = START + timedelta(hours=hours)
    for pair in (authorities.current, server_pair(authorities.current, ["localhost"], START)):
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        assert certificate.not_valid_before_utc < there < certificate.not_valid_after_utc


def test_nothing_due_changes_nothing() -> None:
    """The same object: it is not written again."""
    first = advanced(None, START)
    assert advanced(first, START + timedelta(days=100)) is first


@pytest.mark.parametrize("days", [366, 4000])
def test_one_that_expired_unattended_is_made_anew(days: int) -> None:
    """The operator was off for a year."""
    first = advanced(None, START)
    second = advanced(first, START + timedelta(days=days))
    assert second.current != first.current
    assert isinstance(second, Authorities)


def kept(kube: Kube, now: datetime) -> Certificates:
    return Certificates(kube, "kernelspan", "kernelspan-ca", ["localhost", "10.0.0.1", "fd00::1"], now.timestamp)


def test_a_restart_finds_what_was_kept() -> None:
    """One Secret, one ConfigMap, written once; the key is in the Secret alone."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.objects |= {SECRETS: {}, CONFIG_MAPS: {}}
            for _ in range(3):
                certificates = kept(kube, START)
                await certificates.refresh()
                certificates.credentials()
            assert server.count("POST") == 2
            assert server.count("PUT") == 0
            public = server.objects[CONFIG_MAPS]["kernelspan-ca"]["data"]
            assert list(public) == ["ca.crt"]
            assert "PRIVATE" not in public["ca.crt"]
            later = kept(kube, START + timedelta(days=280))
            await later.refresh()
            published = server.objects[CONFIG_MAPS]["kernelspan-ca"]["data"]["ca.crt"]
            assert published.count("BEGIN CERTIFICATE") == 2
            later = kept(kube, START + timedelta(days=310))
            await later.refresh()
            again = kept(kube, START + timedelta(days=311))
            await again.refresh()
            assert again._authorities == later._authorities
            assert again._authorities is not None
            assert len(again._authorities.old) == 1

    asyncio.run(main())


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_of_its_own_does_not_matter(years: int) -> None:
    """A year is what the API server says it is: an authority that is good then is not made anew, whatever is here."""
    then = START.replace(year=START.year + years)

    async def main() -> None:
        async with api_server() as (server, kube):
            server.objects |= {SECRETS: {}, CONFIG_MAPS: {}}
            first = kept(kube, then)
            await first.refresh()
            again = kept(kube, then + timedelta(days=1))
            await again.refresh()
            assert again._authorities == first._authorities
            assert server.count("PUT") == 0

    asyncio.run(main())


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
def test_a_wrong_clock_makes_no_certificate_of_another_day(days: int) -> None:
    """Of an operator that has not heard from the API server yet: agents have clocks that are right."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.objects |= {SECRETS: {}, CONFIG_MAPS: {}}
            wrong = Kube(kube._connection, lambda: time.time() + days * 86_400)
            async with wrong:
                certificates = Certificates(wrong, "kernelspan", "kernelspan-ca", ["localhost"], wrong.now)
                await certificates.refresh()
            assert certificates._authorities is not None
            assert certificates._server is not None
            now = datetime.now(UTC)
            for one in (certificates._authorities.current, certificates._server):
                certificate = x509.load_pem_x509_certificate(one.certificate)
                assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc - timedelta(days=20)

    asyncio.run(main())


@pytest.mark.parametrize("data", [{}, {"ca.crt": "!!"}, {"ca.crt": "eA==", "ca.key": "eA=="}, None])
def test_a_secret_of_no_use_is_made_anew(data: object) -> None:
    """Somebody has edited it: agents follow the ConfigMap."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.objects[CONFIG_MAPS] = {}
            server.put(SECRETS, {"metadata": {"name": "kernelspan-ca"}, "data": data})
            certificates = kept(kube, START)
            await certificates.refresh()
            assert server.count("PUT", SECRETS) == 1
            assert set(server.objects[SECRETS]["kernelspan-ca"]["data"]) == {"ca.crt", "ca.key"}

    asyncio.run(main())
