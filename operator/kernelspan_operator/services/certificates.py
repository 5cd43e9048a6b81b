# SPDX-License-Identifier: Apache-2.0
"""Where the authority is kept (a Secret), published (a ConfigMap that agents mount), and used (the server's certificate).

A Secret that cannot be read is made anew, and said so: agents then wait for the ConfigMap to reach them. Written is only
what differs. Two operators at once do not overwrite each other's authority: the Secret is changed by resourceVersion.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import grpc
import msgspec

from kernelspan_operator.errors import ApiError

from .authority import Authorities, Pair, advanced, needs_renewal, peer_pair, server_pair
from .kube import Kube

CHECK_SECONDS = 3600.0
_LABELS = {"app.kubernetes.io/name": "kernelspan", "app.kubernetes.io/managed-by": "kernelspan-operator"}
_log = logging.getLogger(__name__)


class Certificates:
    """`name` is the Secret's and the ConfigMap's, in the operator's own namespace; `names` are the server's."""

    def __init__(self, kube: Kube, namespace: str, name: str, names: Sequence[str], now: Callable[[], float]) -> None:
        self._kube, self._name, self._names, self._now = kube, name, tuple(names), now
        self._folder = f"/api/v1/namespaces/{quote(namespace, safe='')}"
        self._authorities: Authorities | None = None
        self._server: Pair | None = None
        self._given: Pair | None = None

    async def refresh(self) -> None:
        """Reads, rotates, publishes, and renews what is due. Raises ApiError; what there was stays in use then."""
        found = await self._get(f"{self._folder}/secrets/{self._name}")
        # Not before: the first answer of the API server is what tells its clock.
        now = datetime.fromtimestamp(self._now(), UTC)
        self._authorities = await self._keep(found, now)
        await self._publish(self._authorities.bundle())
        current = self._authorities.current
        if self._server is None or needs_renewal(self._server, current, now):
            self._server = server_pair(current, self._names, now)

    def peer(self, node: str) -> Pair:
        """For the agent of a node; after the first `refresh`."""
        assert self._authorities is not None
        return peer_pair(self._authorities.current, node, datetime.fromtimestamp(self._now(), UTC))

    def credentials(self) -> grpc.ServerCredentials:
        """For the server, after the first `refresh`; new connections get what is renewed later."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._newer)  # type: ignore[arg-type]  # None is allowed

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        assert self._server is not None
        self._given = self._server
        return grpc.ssl_server_certificate_configuration([(self._server.key, self._server.certificate)])

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked at each handshake; None: as before."""
        return None if self._given is self._server else self._configuration()

    async def _keep(self, found: dict[str, Any] | None, now: datetime) -> Authorities:
        path = f"{self._folder}/secrets/{self._name}"
        before = _read(found, now) if found is not None else None
        if found is not None and before is None:
            _log.error("authority.unreadable secret=%s hint=%s", self._name, "a new one is made; agents follow it")
        after = advanced(before, now)
        if after is before:
            return after
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "labels": _LABELS} | _version(found),
            "type": "Opaque",
            "data": _written(after),
        }
        await self._put(path, f"{self._folder}/secrets", body, found is not None)
        _log.info("authority.changed secret=%s", self._name)
        return after

    async def _publish(self, bundle: bytes) -> None:
        path = f"{self._folder}/configmaps/{self._name}"
        found = await self._get(path)
        data = {"ca.crt": bundle.decode("ascii")}
        if found is not None and found.get("data") == data:
            return
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "labels": _LABELS} | _version(found),
            "data": data,
        }
        await self._put(path, f"{self._folder}/configmaps", body, found is not None)

    async def _get(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = msgspec.json.decode(await self._kube.request("get", "GET", path))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def _put(self, path: str, folder: str, body: dict[str, Any], exists: bool) -> None:
        if exists:
            await self._kube.request("update", "PUT", path, body=body)
        else:
            await self._kube.request("create", "POST", folder, body=body)


def _version(found: dict[str, Any] | None) -> dict[str, str]:
    return {"resourceVersion": found["metadata"]["resourceVersion"]} if found else {}


def _written(authorities: Authorities) -> dict[str, str]:
    parts = {"ca.crt": authorities.current.certificate, "ca.key": authorities.current.key}
    if authorities.next is not None:
        parts |= {"next.crt": authorities.next.certificate, "next.key": authorities.next.key}
    if authorities.old:
        parts["old.crt"] = b"".join(authorities.old)
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def _read(secret: dict[str, Any], now: datetime) -> Authorities | None:
    """None: not what we write."""
    try:
        data = {name: base64.b64decode(value, validate=True) for name, value in (secret.get("data") or {}).items()}
        following = Pair(data["next.crt"], data["next.key"]) if "next.crt" in data else None
        end = b"-----END CERTIFICATE-----\n"
        old = tuple(part + end for part in data.get("old.crt", b"").split(end) if part.strip())
        found = Authorities(Pair(data["ca.crt"], data["ca.key"]), following, old)
        server_pair(found.current, ["localhost"], now)  # certificate and key are there, and fit
    except (KeyError, ValueError, TypeError, binascii.Error, AssertionError):
        return None
    return found
