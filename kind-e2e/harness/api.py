# SPDX-License-Identifier: Apache-2.0
"""The cluster's API over HTTP, as the administrator of a kubeconfig: an answer in milliseconds, where kubectl takes a tenth
of a second to start. Services are asked through it too.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import yaml

_TIMEOUT_SECONDS = 120.0
_AGAIN_SECONDS = 60.0  # for what a busy server did not manage
_BUSY = {500, 502, 503, 504}


class Api:
    """Asks one API server; each request has a connection of its own."""

    def __init__(self, kubeconfig: Path) -> None:
        """Reads address, authority and certificate, as kind writes them."""
        described = yaml.safe_load(kubeconfig.read_text("utf-8"))
        cluster, user = described["clusters"][0]["cluster"], described["users"][0]["user"]
        self._address = urlsplit(cluster["server"]).netloc
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as file:  # ssl takes a certificate from a file alone
            file.write(base64.b64decode(user["client-certificate-data"]))
            file.write(b"\n" + base64.b64decode(user["client-key-data"]))
            file.flush()
            self._tls.load_cert_chain(file.name)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET, asked again for a while where nothing comes or the server is too busy.

        Raises OSError or http.client.HTTPException if none comes.
        """
        end = time.monotonic() + _AGAIN_SECONDS
        while True:
            is_last = time.monotonic() > end
            try:
                status, body = self.call("GET", path)
                if is_last or status not in _BUSY:
                    return status, body
            except (OSError, http.client.HTTPException):
                if is_last:
                    raise
            time.sleep(0.5)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """The same of any request; `body` is sent as JSON."""
        data = None if body is None else json.dumps(body)
        connection = http.client.HTTPSConnection(self._address, timeout=_TIMEOUT_SECONDS, context=self._tls)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def service(self, namespace: str, name: str, port: int, path: str) -> tuple[int, bytes]:
        """Status and body of what a Service answers to a GET."""
        return self.get(f"/api/v1/namespaces/{namespace}/services/http:{name}:{port}/proxy{path}")

    def pod(self, namespace: str, name: str, port: int, path: str) -> tuple[int, bytes]:
        """Status and body of what a pod answers to a GET."""
        return self.get(f"/api/v1/namespaces/{namespace}/pods/http:{name}:{port}/proxy{path}")
