# SPDX-License-Identifier: Apache-2.0
"""The way to an API server, as kubectl finds it: --kubeconfig, else KUBECONFIG's files merged, else ~/.kube/config.

Known are client certificates, tokens, token files and plugins (`exec`). What else a user entry may say would make us
another user than kubectl's, or none: it is refused by name, never left out.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kernelspan_agent.errors import MachineError, UsageError

PLUGIN_SECONDS = 120.0  # some of them wait for a person and a browser
_UNKNOWN_OF_USERS = ("auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra")
_PLUGIN_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Access:
    """An API server, and how it knows us."""

    server: str
    context: str
    tls: ssl.SSLContext
    token: str = ""
    proxy: str = ""


class _Named(ssl.SSLContext):
    """Checks the server's certificate for another name than the address says."""

    name = ""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """As the base's."""
        return super().wrap_socket(
            *arguments, **{**options, "server_hostname": self.name or options["server_hostname"]}
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a file says under a name; paths in it are relative to the file's folder."""

    found: Mapping[str, Any]
    folder: Path

    def data(self, name: str) -> bytes:
        """`name`-data, or what is in the file that `name` names; empty: neither."""
        if text := self.found.get(f"{name}-data"):
            return base64.b64decode(text, validate=True)
        return (self.folder / self.found[name]).read_bytes() if self.found.get(name) else b""


def find(path: str, environ: Mapping[str, str]) -> list[Path]:
    """The kubeconfigs to read, the first being the strongest. Raises UsageError where there is none."""
    named = [path] if path else [one for one in environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    files = [Path(one).expanduser() for one in named] or [
        Path(environ.get("HOME", "~"), ".kube", "config").expanduser()
    ]
    there = [one for one in files if one.is_file()]
    if not there:
        names = ", ".join(str(one) for one in files)
        raise UsageError(
            f"{names}: no kubeconfig there", reason="NoKubeconfig", hint="give --kubeconfig FILE, or set KUBECONFIG"
        )
    return there


def read(files: list[Path], context: str, environ: Mapping[str, str]) -> Access:
    """The access that a context gives; empty: the current one. Raises UsageError, or MachineError of a plugin's."""
    names = ", ".join(str(one) for one in files)
    try:
        entries = _merged(files)
        chosen = context or entries["current-context", ""].found["name"]
        found = entries["contexts", chosen].found
        cluster, user = entries["clusters", found["cluster"]], entries["users", found["user"]]
        return _access(chosen, cluster, user, environ)
    except KeyError as error:
        missing = " ".join(str(part) for part in error.args[0]) if isinstance(error.args[0], tuple) else error.args[0]
        raise UsageError(
            f"{names}: has no {missing.strip()}",
            reason="BadKubeconfig",
            hint="kubectl config get-contexts lists what there is; choose with --context",
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{names}: {error}", reason="BadKubeconfig", hint="see whether kubectl works with it"
        ) from error


def _merged(files: list[Path]) -> dict[tuple[str, str], _Entry]:
    """By list and name; of two that have one name, the earlier file's."""
    entries: dict[tuple[str, str], _Entry] = {}
    for path in files:
        found = yaml.safe_load(path.read_bytes()) or {}
        if current := found.get("current-context"):
            entries.setdefault(("current-context", ""), _Entry({"name": current}, path.parent))
        for plural, singular in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
            for one in found.get(plural) or ():
                entries.setdefault((plural, one["name"]), _Entry(one[singular] or {}, path.parent))
    return entries


def _access(context: str, cluster: _Entry, user: _Entry, environ: Mapping[str, str]) -> Access:
    if strange := [name for name in _UNKNOWN_OF_USERS if user.found.get(name)]:
        raise UsageError(
            f"context {context}: {strange[0]} in a user of a kubeconfig is not supported",
            reason="BadKubeconfig",
            hint="use a client certificate, a token or an exec plugin",
        )
    token, certificate, key = _credentials(user, environ)
    tls = _tls(cluster, certificate, key)
    proxy = str(cluster.found.get("proxy-url") or "")
    return Access(str(cluster.found["server"]).rstrip("/"), context, tls, token, proxy)


def _credentials(user: _Entry, environ: Mapping[str, str]) -> tuple[str, bytes, bytes]:
    """Token, certificate, key; each may be empty."""
    certificate, key = user.data("client-certificate"), user.data("client-key")
    if path := user.found.get("tokenFile"):
        return (user.folder / path).read_text("ascii").strip(), certificate, key
    if user.found.get("exec") and not user.found.get("token"):
        return _ask_plugin(user, environ)
    return str(user.found.get("token") or ""), certificate, key


def _ask_plugin(user: _Entry, environ: Mapping[str, str]) -> tuple[str, bytes, bytes]:
    """What a credential plugin says (client.authentication.k8s.io ExecCredential). Raises MachineError."""
    plugin = user.found["exec"]
    command = str(plugin["command"])
    if plugin.get("apiVersion") not in _PLUGIN_VERSIONS:
        raise ValueError(f"exec: apiVersion {plugin.get('apiVersion')} is not one of {', '.join(_PLUGIN_VERSIONS)}")
    if "/" in command:
        command = str(user.folder / command)
    asked = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    variables = {str(one["name"]): str(one["value"]) for one in plugin.get("env") or ()}
    try:
        ended = subprocess.run(
            [command, *(str(one) for one in plugin.get("args") or ())],
            env={**environ, "KUBERNETES_EXEC_INFO": json.dumps(asked), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=PLUGIN_SECONDS,
        )
        status = json.loads(ended.stdout)["status"]
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
        hint = str(plugin.get("installHint") or "see whether kubectl works with this context")
        raise MachineError(f"the plugin {command}: {error!r}", reason="NoCredentials", hint=hint) from error
    parts = (str(status.get(name) or "") for name in ("token", "clientCertificateData", "clientKeyData"))
    token, certificate, key = parts
    return token, certificate.encode(), key.encode()


def _tls(cluster: _Entry, certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.name = str(cluster.found.get("tls-server-name") or "")
    if authority := cluster.data("certificate-authority"):
        context.load_verify_locations(cadata=authority.decode("ascii"))
    else:
        context.load_default_certs()
    if cluster.found.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate and key:
        _load_certificate(context, certificate, key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the ssl module takes files only
        path = Path(folder, "client.pem")
        path.touch(0o600)
        path.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(path)
