# SPDX-License-Identifier: Apache-2.0
"""Who is who in a test's cluster: Kubernetes takes a client certificate's common name for the user, its organisation
for the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """PEM files of one authority and of those it vouches for; `service_accounts` signs tokens."""

    ca: Path
    server: Identity
    admin: Identity
    controllers: Identity
    service_accounts: Identity


def make_pki(folder: Path) -> Pki:
    """Makes a new authority and writes all of it into the folder, which is made; nothing secret is kept."""
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")

    def issue(name: str, *identities: str, common_name: str | None = None, group: str | None = None) -> Identity:
        issued = authority.issue_cert(*identities, common_name=common_name, organization_name=group)
        identity = Identity(folder / f"{name}.pem", folder / f"{name}-key.pem")
        issued.cert_chain_pems[0].write_to_path(identity.certificate)
        issued.private_key_pem.write_to_path(identity.key)
        return identity

    return Pki(
        folder / "ca.pem",
        issue("server", "127.0.0.1", "localhost", "kubernetes.default.svc"),
        issue("admin", "admin.test", common_name="admin", group="system:masters"),
        issue("controllers", "controllers.test", common_name="system:kube-controller-manager"),
        issue("service-accounts", "service-accounts.test"),
    )
