# SPDX-License-Identifier: Apache-2.0
"""Where OTLP goes to, by the command line and OTEL_EXPORTER_OTLP_*.

Rules of the specification (opentelemetry.io/docs/specs/otel/protocol/exporter): a variable for traces goes before the
general one, an empty one counts as absent, the general endpoint gets `/v1/traces` over HTTP and the one for traces
does not, TIMEOUT is in milliseconds and 0 is no limit.

Where the specification leaves a choice:
* Without OTEL_EXPORTER_OTLP_PROTOCOL an endpoint with a path, or with port 4318, is http/protobuf; any other is grpc.
* An endpoint without scheme in a profile with `tls` is TLS; on the command line it is plain text unless a certificate is configured or
  OTEL_EXPORTER_OTLP_INSECURE=false; from the environment it is TLS unless OTEL_EXPORTER_OTLP_INSECURE=true.
No error message repeats a header's value.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.environment import Variables
from kernelspan_agent.export.pem import read_pem
from kernelspan_api.handling import ExportTLS

GRPC, HTTP = "grpc", "http/protobuf"
_PATH = "/v1/traces"
_DEFAULT_PORTS = {GRPC: 4317, HTTP: 4318}
_MAX_TIMEOUT_MS = 1 << 31
_DEFAULT_TIMEOUT_S = 10.0  # the specification's
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_GRPC_NAME = re.compile(r"[0-9a-z_.-]+")  # gRPC over HTTP/2, Header-Name
_RESERVED = {"content-type", "content-length", "content-encoding", "host", "user-agent", "connection"}
_RESERVED |= {"te", "transfer-encoding"}  # codespell:ignore te


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """`host`, `port`: the server; `path`: over HTTP. Certificates are paths of PEM files; "" is absent.

    `server_name`: what the certificate must be for, instead of `host`. `verify`: whether it must be one, over HTTP alone.
    """

    protocol: str
    host: str
    port: int
    path: str = ""
    secure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = _DEFAULT_TIMEOUT_S
    gzip: bool = False
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    server_name: str = ""
    verify: bool = True

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint as a user would write it."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path}"


def settings_from(environ: Mapping[str, str], endpoint: str = "", tls: ExportTLS | None = None) -> OtlpSettings:
    """Settings for `endpoint`, else for the environment's, else for localhost. `tls`: what a profile says of its own.

    Raises UsageError that names the option or variable and what is allowed.
    """
    variables = Variables(environ)
    source, raw = ("--otlp", endpoint.strip()) if endpoint else variables.get("ENDPOINT")
    if endpoint and not raw:
        raise UsageError("--otlp: the endpoint is empty", hint="Give host:port or a URL such as http://localhost:4317.")
    protocol = _protocol(variables)
    if not raw:
        chosen = protocol or GRPC
        raw = f"http://localhost:{_DEFAULT_PORTS[chosen]}"
    url = _split(source, raw)
    port = _port(source, url)
    if not protocol:
        protocol = HTTP if url.path.strip("/") or port == _DEFAULT_PORTS[HTTP] else GRPC
    certificate, client_certificate, client_key = _certificates(variables)
    _check_name(tls)
    secure = url.scheme == "https"
    if not url.scheme:
        secure = tls is not None or _secure_by_option(
            variables, bool(endpoint), bool(certificate or client_certificate)
        )
    return OtlpSettings(
        protocol=protocol,
        host=url.hostname or "",
        port=port or _DEFAULT_PORTS[protocol],
        path=_path(source, url.path) if protocol == HTTP else "",
        secure=secure,
        headers=_headers(variables, protocol),
        timeout_s=_timeout(variables),
        gzip=_gzip(variables),
        certificate=certificate if secure else "",
        client_certificate=client_certificate if secure else "",
        client_key=client_key if secure else "",
        server_name=tls.server_name if tls and secure else "",
        verify=not (tls and tls.insecure_skip_verify),
    )


def _check_name(tls: ExportTLS | None) -> None:
    try:
        (tls.server_name if tls else "").encode("idna")
    except UnicodeError as error:
        raise UsageError(f"export.otlp.tls.serverName: {error}") from error


def _protocol(variables: Variables) -> str:
    name, value = variables.get("PROTOCOL")
    if value and value not in _DEFAULT_PORTS:
        raise UsageError(f"{name}={value[:40]!r}: must be {GRPC} or {HTTP}")
    return value


def _split(source: str, raw: str) -> urllib.parse.SplitResult:
    hint = "Give host:port or a URL such as http://localhost:4317."
    if not raw.isascii() or not raw.isprintable() or " " in raw:
        raise UsageError(f"{source}: {raw[:80]!r} is no endpoint", hint=hint)
    try:
        url = urllib.parse.urlsplit(raw if "://" in raw else f"//{raw}")
        host = url.hostname
    except ValueError as error:
        raise UsageError(f"{source}: {raw[:80]!r}: {error}", hint=hint) from error
    if "@" in url.netloc:
        raise UsageError(f"{source}: user and password do not belong into an endpoint", hint=_HEADERS_HINT)
    if url.scheme not in ("", "http", "https"):
        raise UsageError(f"{source}: {raw[:80]!r}: the scheme must be http or https", hint=hint)
    if not host or url.query or url.fragment:
        raise UsageError(f"{source}: {raw[:80]!r} is no endpoint", hint=hint)
    return url


_HEADERS_HINT = "Put credentials into OTEL_EXPORTER_OTLP_HEADERS."


def _port(source: str, url: urllib.parse.SplitResult) -> int:
    """0: none is given."""
    try:
        port = url.port
    except ValueError as error:
        raise UsageError(f"{source}: {url.netloc[:80]!r}: the port must be a number, 1 to 65535") from error
    if port == 0:
        raise UsageError(f"{source}: {url.netloc[:80]!r}: the port must be a number, 1 to 65535")
    if port is None and url.scheme == "https":
        return 443
    if port is None and url.scheme == "http" and url.path.strip("/"):
        return 80
    return port or 0


def _path(source: str, path: str) -> str:
    """The general variable names the base, the others the very place (`--otlp` only if it has a path)."""
    if source == "OTEL_EXPORTER_OTLP_ENDPOINT" or (source == "--otlp" and not path.strip("/")):
        return path.rstrip("/") + _PATH
    return path or "/"


def _secure_by_option(variables: Variables, from_command_line: bool, has_certificates: bool) -> bool:
    name, value = variables.get("INSECURE")
    if value.lower() not in ("", "true", "false"):
        raise UsageError(f"{name}={value[:40]!r}: must be true or false")
    if value:
        return value.lower() == "false"
    return has_certificates or not from_command_line


def _certificates(variables: Variables) -> tuple[str, str, str]:
    found = {}
    for key in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        name, path = variables.get(key)
        if path:
            try:
                read_pem(path)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from error
        found[key] = path
    if bool(found["CLIENT_CERTIFICATE"]) != bool(found["CLIENT_KEY"]):
        raise UsageError("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together")
    return found["CERTIFICATE"], found["CLIENT_CERTIFICATE"], found["CLIENT_KEY"]


def _headers(variables: Variables, protocol: str) -> tuple[tuple[str, str], ...]:
    variable, raw = variables.get("HEADERS")
    headers: dict[str, str] = {}
    for number, item in enumerate(raw.split(","), 1):
        if not item.strip():
            continue
        name, separator, value = item.partition("=")
        name, value = urllib.parse.unquote(name.strip()).lower(), urllib.parse.unquote(value.strip())
        form = _GRPC_NAME if protocol == GRPC else _HEADER_NAME
        if not separator or not form.fullmatch(name):
            raise UsageError(f"{variable}: item {number} must be name=value, the name a header's")
        if not _HEADER_VALUE.fullmatch(value):
            raise UsageError(f"{variable}: the value of {name} must be printable ASCII")
        if name in _RESERVED or name.startswith("grpc-") or (protocol == GRPC and name.endswith("-bin")):
            raise UsageError(f"{variable}: {name} is not the user's to set")
        headers[name] = value
    return tuple(headers.items())


def _timeout(variables: Variables) -> float:
    name, value = variables.get("TIMEOUT")
    if not value:
        return _DEFAULT_TIMEOUT_S
    if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > _MAX_TIMEOUT_MS:
        raise UsageError(f"{name}={value[:40]!r}: must be a whole number of milliseconds, 0 to {_MAX_TIMEOUT_MS}")
    return int(value) / 1000 if int(value) else math.inf


def _gzip(variables: Variables) -> bool:
    name, value = variables.get("COMPRESSION")
    if value not in ("", "none", "gzip"):
        raise UsageError(f"{name}={value[:40]!r}: must be gzip or none")
    return value == "gzip"
