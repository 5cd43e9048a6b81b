# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes API without nodes: etcd, kube-apiserver and kube-controller-manager as processes on loopback.

Nothing of it outlives `with`: the data stands in the folder given, certificates are made anew each time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from kernelspan_api.resource import GROUP, KINDS
from tests.support.pki import Identity, make_pki
from tests.support.ports import PortReservation
from tests.support.server import ServerError, ServerProcess, answers_ok

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CRDS = Path(__file__).resolve().parents[2] / "charts/kernelspan/files/crds"
_HTTP_TIMEOUT_SECONDS = 60.0
_KUBECTL_TIMEOUT_SECONDS = 120.0
_BODY_LIMIT_BYTES = 256 << 20
_QUOTA_BYTES = 4 << 30  # etcd's default of 2 GiB is less than a test of scale writes
_ISSUER = "https://kubernetes.default.svc"


DEFINITIONS = tuple(f"{kind.lower()}s.{GROUP}" for kind in KINDS)
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ESTABLISH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API: its status and its body, parsed."""

    status: int
    body: Any


class Cluster:
    """A running control plane; use with `with`. `url` is its address, `kubeconfig` the administrator's."""

    def __init__(
        self,
        binaries: Mapping[str, Path],
        folder: Path,
        *,
        audit: bool = False,
        audit_of: Sequence[str] = (),
        controllers: bool = True,
    ) -> None:
        """Certificates, data and logs go into the folder, which is made. `audit`: the API server notes every call;
        `audit_of`: those of these users. Without `controllers` nothing makes service accounts in new namespaces.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._kubectl = binaries["kubectl"]
        self._audit = folder / "audit.jsonl" if audit or audit_of else None
        self._audit_of, self._with_controllers = list(audit_of), controllers
        self._folder = folder
        self._ports = PortReservation(4)
        self._client_port, self._peer_port, self._api_port, self._controllers_port = self._ports.ports
        self.url = f"https://127.0.0.1:{self._api_port}"
        self.etcd_url = f"http://127.0.0.1:{self._client_port}"
        self._pki = make_pki(folder / "pki")
        self.kubeconfig = self._write_kubeconfig("admin", self._pki.admin)
        controllers = self._write_kubeconfig("controllers", self._pki.controllers)
        self._tls = ssl.create_default_context(cafile=self._pki.ca)
        self._tls.load_cert_chain(self._pki.admin.certificate, self._pki.admin.key)
        self.etcd = ServerProcess(
            "etcd",
            [binaries["etcd"], *self._etcd_options()],
            folder / "etcd.log",
            lambda: answers_ok(self._client_port, "/readyz"),
        )
        self.apiserver = ServerProcess(
            "kube-apiserver",
            [binaries["kube-apiserver"], *self._apiserver_options()],
            folder / "kube-apiserver.log",
            lambda: self._text("/readyz") == b"ok",
        )
        self.controllers = ServerProcess(
            "kube-controller-manager",
            [binaries["kube-controller-manager"], *self._controllers_options(controllers)],
            folder / "kube-controller-manager.log",
            lambda: self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default").status == 200,
        )

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Answer:
        """One call of the API as administrator. Raises OSError or http.client.HTTPException if none answers."""
        with self._connection() as connection:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": content_type})
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read(_BODY_LIMIT_BYTES)))

    def establish(self, *definitions: str) -> None:
        """Waits until objects of these definitions can be made. `kubectl wait` fails where one has no conditions yet.

        Raises ServerError with what the last has said of itself.
        """
        deadline = time.monotonic() + _ESTABLISH_SECONDS
        for name in definitions:
            while not _is_established(found := self.request("GET", f"{_DEFINITIONS}/{name}")):
                if time.monotonic() > deadline:
                    raise ServerError(f"{name} is not established: {found.body.get('status')}")
                time.sleep(0.05)

    def kubectl(self, *arguments: str, document: object = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as administrator; `document` goes to its standard input as JSON (name it by `-f -`).

        Raises ServerError with what it said if it fails, unless `check` is false.
        """
        ended = subprocess.run(
            [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=None if document is None else json.dumps(document),
            stdin=subprocess.DEVNULL if document is None else None,
            env={"PATH": os.environ["PATH"], "KUBECACHEDIR": str(self._folder / "kubectl"), "KUBERC": "off"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_KUBECTL_TIMEOUT_SECONDS,
        )
        if check and ended.returncode:
            raise ServerError(f"kubectl {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr}")
        return ended

    def audited(self, username: str) -> list[dict[str, Any]]:
        """The calls of one user, in the order in which they ended (audit.k8s.io/v1 Event); a watch counts once begun."""
        assert self._audit is not None
        events = [json.loads(line) for line in self._audit.read_text("utf-8").splitlines()]
        return [one for one in events if one["user"]["username"] == username]

    def start(self) -> None:
        """Starts all three, in order. Raises ServerError with the log of the one that does not become healthy."""
        for server in (self.etcd, self.apiserver, *([self.controllers] if self._with_controllers else [])):
            server.start()

    def close(self) -> None:
        """Ends all three and gives the ports back."""
        for server in (self.controllers, self.apiserver, self.etcd):
            server.stop()
        self._ports.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connection(self) -> contextlib.closing[http.client.HTTPSConnection]:
        return contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", self._api_port, timeout=_HTTP_TIMEOUT_SECONDS, context=self._tls)
        )

    def _text(self, path: str) -> bytes:
        with self._connection() as connection:
            connection.request("GET", path)
            return connection.getresponse().read(_BODY_LIMIT_BYTES)

    def _write_kubeconfig(self, name: str, identity: Identity) -> Path:
        path = self._folder / f"{name}.kubeconfig"
        user = {"client-certificate": str(identity.certificate), "client-key": str(identity.key)}
        cluster = {"server": self.url, "certificate-authority": str(self._pki.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config), "utf-8")
        return path

    def _etcd_options(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._client_port}", f"http://127.0.0.1:{self._peer_port}"
        return [
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            f"--quota-backend-bytes={_QUOTA_BYTES}",
            "--unsafe-no-fsync",  # what a power cut would lose is of no use to a test
            "--log-level=warn",
        ]

    def _apiserver_options(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self._client_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._api_port}",
            "--endpoint-reconciler-type=none",  # an Endpoints object may not hold a loopback address
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--tls-cert-file={self._pki.server.certificate}",
            f"--tls-private-key-file={self._pki.server.key}",
            f"--client-ca-file={self._pki.ca}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={self._pki.service_accounts.key}",
            f"--service-account-signing-key-file={self._pki.service_accounts.key}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            *self._audit_options(),
        ]

    def _audit_options(self) -> list[str]:
        if self._audit is None:
            return []
        # ResponseStarted: a watch ends with its client, later than a test looks.
        rules: list[dict[str, Any]] = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        if self._audit_of:
            rules = [rules[0] | {"users": self._audit_of}, {"level": "None"}]
        policy = self._folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}), "utf-8")
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self._audit}", "--audit-log-mode=blocking"]

    def _controllers_options(self, kubeconfig: Path) -> list[str]:
        return [
            f"--kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._controllers_port}",
            f"--tls-cert-file={self._pki.server.certificate}",
            f"--tls-private-key-file={self._pki.server.key}",
            "--leader-elect=false",
            f"--root-ca-file={self._pki.ca}",
            f"--service-account-private-key-file={self._pki.service_accounts.key}",
            "--use-service-account-credentials=true",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ]


def _is_established(definition: Answer) -> bool:
    conditions = definition.body.get("status", {}).get("conditions") or [] if definition.status == 200 else []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@contextlib.contextmanager
def with_definitions(binaries: Mapping[str, Path], folder: Path, *namespaces: str) -> Iterator[Cluster]:
    """A control plane with our definitions established, and these namespaces."""
    with Cluster(binaries, folder) as plane:
        plane.kubectl("create", "-f", str(CRDS))
        plane.establish(*DEFINITIONS)
        for name in namespaces:
            plane.kubectl("create", "namespace", name)
        yield plane
