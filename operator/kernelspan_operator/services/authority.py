# SPDX-License-Identifier: Apache-2.0
"""Our own certificate authority: made, rotated, and what it signs. Pure: keys and certificates in, the same out.

A rotation is in two steps, so that no agent ever meets a certificate it cannot know: the next authority is published a
while before anything is signed by it, and the old one stays published until it expires.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kernelspan_api.control import peer_name

AUTHORITY_DAYS = 365
PUBLISH_BEFORE_DAYS = 90  # the next authority is known to agents so long before the current one expires
SIGN_BEFORE_DAYS = 60  # and signs from here on
SERVER_DAYS = 30
RENEW_BEFORE_DAYS = 10
PEER_DAYS = 1  # an agent gets one whenever its token is a new one, each hour
_SKEW = timedelta(days=1)  # of clocks between nodes: certificates begin so long ago


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authorities(msgspec.Struct, frozen=True):
    """`current` signs; `next` is published only; `old` are certificates without keys, published until they expire."""

    current: Pair
    next: Pair | None = None
    old: tuple[bytes, ...] = ()

    def bundle(self) -> bytes:
        """What agents trust."""
        coming = (self.next.certificate,) if self.next else ()
        return b"".join((self.current.certificate, *coming, *self.old))


def advanced(found: Authorities | None, now: datetime) -> Authorities:
    """The authorities as they should be now; the same object where nothing is due."""
    if found is None or _left(found.current.certificate, now) <= timedelta(0):
        return Authorities(_authority(now))
    result = found
    if result.next is None and _left(result.current.certificate, now) < timedelta(days=PUBLISH_BEFORE_DAYS):
        result = msgspec.structs.replace(result, next=_authority(now))
    elif result.next is not None and _left(result.current.certificate, now) < timedelta(days=SIGN_BEFORE_DAYS):
        result = Authorities(result.next, None, (result.current.certificate, *result.old))
    old = tuple(one for one in result.old if _left(one, now) > timedelta(0))
    return result if old == result.old else msgspec.structs.replace(result, old=old)


def server_pair(authority: Pair, names: Sequence[str], now: datetime) -> Pair:
    """A certificate for the operator's own server, under all of `names` (DNS names and addresses)."""
    return _signed(authority, "kernelspan-operator", names, [ExtendedKeyUsageOID.SERVER_AUTH], now, SERVER_DAYS)


def peer_pair(authority: Pair, node: str, now: datetime) -> Pair:
    """A certificate for the agent of a node, by which agents of other nodes know it, whichever of the two has called."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _signed(authority, "kernelspan-agent", [peer_name(node)], usages, now, PEER_DAYS)


def _signed(
    authority: Pair, subject: str, names: Sequence[str], usages: list[x509.ObjectIdentifier], now: datetime, days: int
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    builder = (
        _begun(subject, key, now, until)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def needs_renewal(server: Pair, authority: Pair, now: datetime) -> bool:
    """Whether the server's certificate expires soon, or is of an authority that signs no more."""
    certificate = x509.load_pem_x509_certificate(server.certificate)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    if certificate.issuer != issuer.subject:
        return True
    return certificate.not_valid_after_utc - now < timedelta(days=RENEW_BEFORE_DAYS)


def _authority(now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Each has a name of its own: a verifier that knows two of one name may take the wrong one.
    name = f"kernelspan {now.astimezone(UTC):%Y%m%dT%H%M%S} {x509.random_serial_number() % 0xFFFFFFFF:08x}"
    begun = _begun(name, key, now, now + timedelta(days=AUTHORITY_DAYS))
    builder = (
        begun.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def _begun(name: str, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM), private)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _left(certificate: bytes, now: datetime) -> timedelta:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc - now
