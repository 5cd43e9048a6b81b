# SPDX-License-Identifier: Apache-2.0
"""Reading from the API server: GET and nothing else, bounded, in pages, with the server's clock.

A handful of objects is all that is read, so the standard library does it: docs/design/explain-pod.md.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, TypeVar

import msgspec

from kernelspan_agent.cli.cluster.kubeconfig import Access
from kernelspan_agent.errors import MachineError

REQUEST_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 << 20
_PAGE = 500  # as kubectl's
_MAX_PAGES = 1000

T = TypeVar("T")


class RefusedError(Exception):
    """The API server has answered, but not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _PageMeta(msgspec.Struct, frozen=True, rename={"continue_": "continue"}):
    """metav1.ListMeta."""

    continue_: str = ""


class _Page(msgspec.Struct, frozen=True):
    """A list, its items not decoded yet."""

    metadata: _PageMeta = _PageMeta()
    items: list[msgspec.Raw] = []


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the server it is for, and to no other that an answer names."""

    def redirect_request(self, *_: Any) -> None:
        """None is followed."""


class Api:
    """One API server, read with the rights of one user."""

    def __init__(self, access: Access) -> None:
        self._access = access
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=access.tls), _NoRedirects()]
        if access.proxy:
            handlers.append(urllib.request.ProxyHandler({"http": access.proxy, "https": access.proxy}))
        self._opener = urllib.request.build_opener(*handlers)
        self.now_seconds = time.time()  # by the server's clock, as of its last answer: what expires does so by it

    @property
    def server(self) -> str:
        """Its address."""
        return self._access.server

    def get(self, path: str, **query: str) -> bytes:
        """The body at a path. Raises RefusedError, or MachineError where no answer comes."""
        text = f"?{urllib.parse.urlencode(query)}" if query else ""
        request = urllib.request.Request(f"{self._access.server}{path}{text}", headers={"Accept": "application/json"})  # noqa: S310 - the user's own kubeconfig
        if self._access.token:
            request.add_unredirected_header("Authorization", f"Bearer {self._access.token}")
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                body: bytes = answer.read(MAX_ANSWER_BYTES + 1)
                dated = answer.headers.get("Date", "")
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise MachineError(
                f"{self._access.server}: {why}",
                reason="ApiServerUnreachable",
                hint=f"see whether kubectl --context {self._access.context} works; --context chooses another cluster",
            ) from error
        if len(body) > MAX_ANSWER_BYTES:
            raise RefusedError(0, f"{path}: more than {MAX_ANSWER_BYTES} bytes")
        if (when := email.utils.parsedate_tz(dated)) is not None:
            self.now_seconds = float(email.utils.mktime_tz(when))
        return body

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        message = _message(error)
        if error.code == http.client.UNAUTHORIZED:
            return MachineError(
                f"{self._access.server} does not know us: {message}",
                reason="Unauthorized",
                hint=f"log in anew; see whether kubectl --context {self._access.context} works",
            )
        return RefusedError(error.code, message)

    def one(self, path: str, kind: type[T]) -> T:
        """The object at a path. Raises as `get` does."""
        return self._decoded(self.get(path), kind)

    def items(self, path: str, kind: type[T], **query: str) -> list[T]:
        """All objects of a collection. Raises as `get` does."""
        found: list[T] = []
        query["limit"] = str(_PAGE)
        for _ in range(_MAX_PAGES):
            page = self._decoded(self.get(path, **query), _Page)
            found += [self._decoded(one, kind) for one in page.items]
            if not page.metadata.continue_:
                return found
            query["continue"] = page.metadata.continue_
        raise RefusedError(0, f"{path}: more than {_MAX_PAGES * _PAGE} objects")

    def _decoded(self, body: bytes | msgspec.Raw, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise MachineError(
                f"{self._access.server} answers as no API server does: {error}",
                reason="ApiServerUnreachable",
                hint="see the server's address in the kubeconfig",
            ) from error


def _message(error: urllib.error.HTTPError) -> str:
    """What the API server has to say (metav1.Status), else the bare status line."""
    try:
        return str(json.loads(error.read(1 << 16))["message"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
