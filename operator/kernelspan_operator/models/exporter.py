# SPDX-License-Identifier: Apache-2.0
"""What a profile's exporter takes from Secrets, and whether it is there in a form that can be used.

Every sentence here ends up in a status: it names the Secret and the entry, and never says what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kernelspan_api.resource import Spec

# Of all headers together: what servers take by default (Go 1 MiB, nginx 8 KiB a header, gRPC 8 KiB in all).
MAX_HEADERS_BYTES = 8 << 10
MAX_PEM_BYTES = 256 << 10  # the system's authorities all together are 220 KiB
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")  # gRPC's; what HTTP takes besides is in no Secret's keys
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
# Set by the transport: another value breaks the request, or makes it another one.
_RESERVED = re.compile(r"grpc-.*|.*-bin|content-.*|connection|host|t(?:e|railer|ransfer-.*)|upgrade|user-agent")


class Needs(msgspec.Struct, frozen=True):
    """Names of Secrets; empty: none is named."""

    headers: str = ""
    ca: str = ""
    certificate: str = ""

    def __bool__(self) -> bool:
        return bool(self.headers or self.ca or self.certificate)


class Held(msgspec.Struct, frozen=True):
    """What was found in them. `problem`: why that is of no use."""

    problem: str = ""
    headers: dict[str, str] = {}
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""


def needed(spec: Spec) -> Needs:
    """What the profile names."""
    otlp = spec.export.otlp if spec.export is not None else None
    if otlp is None:
        return Needs()
    tls = otlp.tls
    return Needs(
        headers=otlp.headers_secret_ref.name if otlp.headers_secret_ref else "",
        ca=tls.ca_secret_ref.name if tls and tls.ca_secret_ref else "",
        certificate=tls.certificate_secret_ref.name if tls and tls.certificate_secret_ref else "",
    )


def held(needs: Needs, secrets: Mapping[str, Mapping[str, bytes]]) -> Held:
    """What the profile gets of `secrets` (name to data), or why it does not; the first that is wrong is named.

    Only Secrets that are there and released by their owner may be in `secrets`.
    """
    for field, name in (("headers", needs.headers), ("tls.ca", needs.ca), ("tls.certificate", needs.certificate)):
        if name and name not in secrets:
            return Held(
                f"{_field(field)}: there is no Secret {name} released for exporters. "
                'Make it in this namespace and label it kernelspan.io/exporter: "true"'
            )
    data = secrets.get
    headers = _headers(data(needs.headers, {})) if needs.headers else {}
    if isinstance(headers, str):
        return Held(f"{_field('headers')}: Secret {needs.headers}: {headers}")
    authorities = data(needs.ca, {}).get("ca.crt", b"")
    if needs.ca and (wrong := _authorities(authorities)):
        return Held(f"{_field('tls.ca')}: Secret {needs.ca}: ca.crt {wrong}")
    pair = data(needs.certificate, {})
    certificate, key = pair.get("tls.crt", b""), pair.get("tls.key", b"")
    if needs.certificate and (wrong := _pair(certificate, key)):
        return Held(f"{_field('tls.certificate')}: Secret {needs.certificate}: {wrong}")
    return Held("", headers, authorities, certificate, key)


def _field(name: str) -> str:
    return f"spec.export.otlp.{name}SecretRef"


def _headers(data: Mapping[str, bytes]) -> dict[str, str] | str:
    """The headers, or what is wrong with them. An end of line after a value is nobody's intention and left out."""
    found: dict[str, str] = {}
    for key in sorted(data):
        name = key.lower()
        value = data[key].rstrip(b"\r\n").decode("latin-1")
        if name in found:
            return f"{name} stands there twice"
        if not _HEADER_NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            return f"{key[:63]} cannot be the name of a header here"
        if not _HEADER_VALUE.fullmatch(value):
            return f"the value of {key[:63]} must be one line of ASCII characters, and not empty"
        found[name] = value
    if not found:
        return "it has no entry; each entry is a header"
    if sum(len(name) + len(value) for name, value in found.items()) > MAX_HEADERS_BYTES:
        return f"its headers are more than {MAX_HEADERS_BYTES} bytes"
    return found


def _authorities(data: bytes) -> str:
    if not data or len(data) > MAX_PEM_BYTES:
        return f"must be there and have at most {MAX_PEM_BYTES} bytes"
    try:
        x509.load_pem_x509_certificates(data)
    except ValueError:
        return "must be certificates in PEM"
    return ""


def _pair(certificate: bytes, key: bytes) -> str:
    if not certificate or not key or len(certificate) + len(key) > MAX_PEM_BYTES:
        return f"tls.crt and tls.key must be there and have at most {MAX_PEM_BYTES} bytes"
    try:
        first = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError:
        return "tls.crt must be certificates in PEM"
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):  # TypeError: it has a password
        return "tls.key must be a private key in PEM, without a password"
    except Exception as error:  # noqa: BLE001 - of an algorithm that is not known: of cryptography's own kind
        return f"tls.key cannot be used: {type(error).__name__}"
    return "" if private.public_key() == first.public_key() else "tls.key is not the key of tls.crt"
