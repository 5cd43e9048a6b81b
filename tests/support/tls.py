# SPDX-License-Identifier: Apache-2.0
"""Certificates for TLS and mTLS tests, made anew for each test: nothing secret and nothing that expires is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one authority: itself, a server certificate for 127.0.0.1 and localhost, a client certificate."""

    ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


def make_tls(folder: Path, *names: str) -> TlsFiles:
    """Writes a new authority and its certificates below the folder, which is made; two calls trust nothing in common.

    `names`: whom the server's certificate is for, if not for 127.0.0.1 and localhost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    files = TlsFiles(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
    authority.cert_pem.write_to_path(files.ca)
    server = authority.issue_cert(*(names or ("127.0.0.1", "localhost", "::1")))
    client = authority.issue_cert("client.test")
    for issued, certificate, key in (
        (server, files.server_certificate, files.server_key),
        (client, files.client_certificate, files.client_key),
    ):
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
    return files
