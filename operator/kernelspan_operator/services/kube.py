# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server: where it is, who we are to it, and one aiohttp session.

In a cluster both come from the service account that the kubelet mounts, whose token changes: it is read anew for each
request. Outside, from a kubeconfig's current context. The server's clock is followed by the Date of its answers: what
expires does so by the clock that dated it.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import base64
import email.utils
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import yaml

from kernelspan_operator.errors import ApiError, ConfigurationError

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
REQUEST_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 << 20
# What asyncio allots to each TLS connection to read into. Its 256 KiB are written with zeros, and a watch is a connection:
# of 300 watches they were three quarters of the memory. A record of TLS has at most 16 KiB (RFC 8446, 5.1).
TLS_BUFFER_BYTES = 32 << 10
_CLOCK_GRAIN_SECONDS = 2.0  # Date has whole seconds, and an answer takes its time


@dataclass(frozen=True, slots=True)
class Connection:
    """An API server and how it knows us."""

    server: str
    ca: bytes | None = None  # PEM; None: the system's authorities
    token: Callable[[], str] | None = None
    certificate: tuple[bytes, bytes] | None = None  # PEM: certificate, key

    def tls(self) -> ssl.SSLContext:
        """What a session to it uses."""
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.certificate is not None:
            _load_certificate(context, *self.certificate)
        return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the ssl module takes files only
        path = Path(folder, "client.pem")
        path.touch(0o600)
        path.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(path)


def in_cluster(environ: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> Connection:
    """By the pod's service account. Raises ConfigurationError outside a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = Path(folder, "token")
    try:
        token.read_bytes()
        ca = Path(folder, "ca.crt").read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"no service account: {error}", hint="run in a pod that mounts its token, or give --kubeconfig"
        ) from error
    if not host:
        raise ConfigurationError("KUBERNETES_SERVICE_HOST is not set", hint="run in a pod, or give --kubeconfig")
    host = f"[{host}]" if ":" in host else host
    return Connection(f"https://{host}:{port}", ca, lambda: token.read_text("ascii").strip())


def from_kubeconfig(path: str) -> Connection:
    """By the current context of a kubeconfig: token, token file or client certificate. Raises ConfigurationError."""
    try:
        found: Any = yaml.safe_load(Path(path).read_bytes())
        context = _named(found, "contexts", "context", found["current-context"])
        cluster = _named(found, "clusters", "cluster", context["cluster"])
        user = _named(found, "users", "user", context["user"])
        certificate, key = _data(user, "client-certificate", path), _data(user, "client-key", path)
        server = str(cluster["server"]).rstrip("/")
        ca = _data(cluster, "certificate-authority", path)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} is no kubeconfig that can be used: {error!r}") from error
    token: Callable[[], str] | None = None
    if user.get("tokenFile"):
        file = Path(user["tokenFile"])
        token = lambda: file.read_text("ascii").strip()  # noqa: E731
    elif user.get("token"):
        text = str(user["token"])
        token = lambda: text  # noqa: E731
    return Connection(server, ca, token, (certificate, key) if certificate and key else None)


def _named(found: Any, plural: str, singular: str, name: str) -> dict[str, Any]:
    return next(dict(one[singular] or {}) for one in found[plural] if one["name"] == name)


def _data(found: Mapping[str, Any], name: str, path: str) -> bytes | None:
    if text := found.get(f"{name}-data"):
        return base64.b64decode(text, validate=True)
    return Path(path).parent.joinpath(found[name]).read_bytes() if found.get(name) else None


class Kube:
    """One session. `with` it asynchronously, or `close` it. Counts for tests and metrics: `requests` by verb, `answers`
    by verb and code, where "none" is that no answer came.
    """

    def __init__(self, connection: Connection, wall_clock: Callable[[], float] = time.time) -> None:
        self._connection, self._wall_clock = connection, wall_clock
        self._ahead_seconds = 0.0
        self.requests: dict[str, int] = {}
        self.answers: dict[tuple[str, str], int] = {}
        asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        connector = aiohttp.TCPConnector(
            ssl=connection.tls() if connection.server.startswith("https") else True, limit=0
        )
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=REQUEST_SECONDS)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every request."""
        await self._session.close()

    def now(self) -> float:
        """Seconds since the epoch by the API server's clock, as far as its answers tell."""
        return self._wall_clock() + self._ahead_seconds

    def open(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """A request as aiohttp's context manager; `verb` is Kubernetes' name for what it does."""
        self.requests[verb] = self.requests.get(verb, 0) + 1
        sent = dict(headers or {})
        if self._connection.token is not None:
            sent["Authorization"] = f"Bearer {self._connection.token()}"
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        return self._session.request(
            method, self._connection.server + path, params=query, data=data, headers=sent, allow_redirects=False
        )

    def count(self, verb: str, code: str) -> None:
        """An answer, or that none came."""
        self.answers[verb, code] = self.answers.get((verb, code), 0) + 1

    def heard(self, verb: str, answer: aiohttp.ClientResponse) -> None:
        """Count the answer, and follow the server's clock."""
        self.count(verb, str(answer.status))
        try:
            said = email.utils.parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except (TypeError, ValueError):
            return
        ahead = said - self._wall_clock()
        if abs(ahead - self._ahead_seconds) > _CLOCK_GRAIN_SECONDS:
            self._ahead_seconds = ahead if abs(ahead) > _CLOCK_GRAIN_SECONDS else 0.0

    async def request(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The answer's body. Raises ApiError: refused, or not reached."""
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self.open(verb, method, path, query=query, body=body, headers=headers) as answer,
            ):
                self.heard(verb, answer)
                data: bytes = (
                    await answer.content.read(MAX_ANSWER_BYTES) if answer.status >= 400 else await answer.read()
                )
                if answer.status >= 400:
                    raise ApiError(answer.status, f"{method} {path}: {answer.status}: {message_of(data)}")
                return data
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.count(verb, "none")
            raise ApiError(0, f"{method} {path}: {type(error).__name__}: {error}") from error


def message_of(data: bytes) -> str:
    """What a metav1.Status says; else the beginning of the body."""
    try:
        found = msgspec.json.decode(data)
        return str(found["message"])[:500]
    except (msgspec.DecodeError, KeyError, TypeError):
        return data[:200].decode("utf-8", "replace")
