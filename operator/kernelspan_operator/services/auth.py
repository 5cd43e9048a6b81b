# SPDX-License-Identifier: Apache-2.0
"""Who an agent is: by its token alone, never by its word.

The API server reviews the token (audience kernelspan-operator) and says whose it is. The node is the token's node claim
(Kubernetes 1.32); before that, that of the pod which the token is bound to. Whatever is not sure is refused; why is
counted by reason, and told to the caller in one word only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from kernelspan_api.control import AUDIENCE, control_pb2
from kernelspan_api.objects import Pod
from kernelspan_operator.errors import ApiError, RefusedError

from .kube import Kube

NODE_NAME = "authentication.kubernetes.io/node-name"
REVIEWS_AT_ONCE = 16  # 5,000 agents come back together; a server sends whoever asks for that many at once away (429)
POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


class Agent(msgspec.Struct, frozen=True):
    """An agent whose token is good until `expires`, in seconds since the epoch."""

    node: str
    expires: float


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, tuple[str, ...]] | None = None


class _Reviewed(msgspec.Struct, frozen=True):
    authenticated: bool = False
    audiences: tuple[str, ...] = ()
    user: _User = _User()
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _Reviewed = _Reviewed()


class _Claims(msgspec.Struct, frozen=True):
    exp: float = 0.0


@dataclass(slots=True, eq=False)
class _Asked:
    review: asyncio.Future[Agent]
    waiting: int = 0


class Auth:
    """Reviews tokens. `service_account` is the agents', as namespace:name; `refused` counts by reason."""

    def __init__(self, kube: Kube, service_account: str, now: Callable[[], float]) -> None:
        self._kube, self._now = kube, now
        self._username = f"system:serviceaccount:{service_account}"
        self._namespace = service_account.partition(":")[0]
        self._at_once = asyncio.Semaphore(REVIEWS_AT_ONCE)
        self._reviews: dict[bytes, _Asked] = {}  # under way, by the header's digest
        self._present: dict[bytes, Agent] = {}  # likewise
        self.refused: dict[str, int] = {}

    async def agent(self, authorization: str) -> Agent:
        """The agent behind an Authorization header. Raises RefusedError; ApiError where the API server cannot say.

        An agent makes all its calls at once: those that come while its token is reviewed wait for that review.
        """
        key = _digest(authorization)
        if (asked := self._reviews.get(key)) is None:
            asked = self._reviews[key] = _Asked(asyncio.ensure_future(self._agent(authorization)))
        asked.waiting += 1
        try:
            return await asyncio.shield(asked.review)
        except RefusedError as error:
            self._count(error)
            raise
        finally:
            asked.waiting -= 1
            if not asked.waiting:  # whoever has left wants to know nothing
                asked.review.cancel()
                del self._reviews[key]

    @contextlib.contextmanager
    def presence(self, authorization: str, agent: Agent) -> Iterator[None]:
        """The agent's stream is open as long as the block lasts."""
        key = _digest(authorization)
        self._present[key] = agent
        try:
            yield
        finally:
            if self._present.get(key) is agent:
                del self._present[key]

    async def beside(self, authorization: str) -> Agent:
        """The agent of a call beside its stream: with the stream's token, which lets it in as long as that is open. Raises as `agent`."""
        found = self._present.get(_digest(authorization))
        return found if found is not None and found.expires > self._now() else await self.agent(authorization)

    def check_hello(self, agent: Agent, report: control_pb2.NodeReport) -> None:
        """The first report must be a Hello of the token's own node. Raises RefusedError."""
        error = None
        if report.WhichOneof("body") != "hello":
            error = RefusedError("the first report is no hello", reason="NoHello")
        elif report.hello.node and report.hello.node != agent.node:
            error = RefusedError("the token is of another node", reason="OtherNode")
        if error is not None:
            self._count(error)
            raise error

    def _count(self, error: RefusedError) -> None:
        self.refused[error.reason] = self.refused.get(error.reason, 0) + 1

    async def _agent(self, authorization: str) -> Agent:
        scheme, _, token = authorization.partition(" ")
        # A blank one the API server would take for no token, which is its anonymous user: authenticated, and nobody.
        if scheme.lower() != "bearer" or not token.strip():
            raise RefusedError("no bearer token", reason="NoToken")
        async with self._at_once:
            return await self._reviewed(token)

    async def _reviewed(self, token: str) -> Agent:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        answer = await self._kube.request("create", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        found = msgspec.json.decode(answer, type=_Review).status
        if not found.authenticated or AUDIENCE not in found.audiences:
            raise RefusedError("the API server does not accept the token", reason="BadToken")
        if found.user.username != self._username:
            raise RefusedError("the token is not of the agents' service account", reason="OtherServiceAccount")
        expires = expiry(token)
        if expires <= self._now():
            raise RefusedError("the token has expired", reason="BadToken")
        return Agent(await self._node(found.user), expires)

    async def _node(self, user: _User) -> str:
        extra = user.extra or {}
        if names := extra.get(NODE_NAME):
            return names[0]
        name, uid = (next(iter(extra.get(key, ())), "") for key in (POD_NAME, POD_UID))
        if not name or not uid:
            raise RefusedError("the token is bound to no pod", reason="NoNode")
        path = f"/api/v1/namespaces/{quote(self._namespace, safe='')}/pods/{quote(name, safe='')}"
        try:
            pod = msgspec.json.decode(await self._kube.request("get", "GET", path), type=Pod)
        except ApiError as error:
            if error.status != 404:
                raise
            raise RefusedError("the pod of the token is gone", reason="NoNode") from error
        if pod.metadata.uid != uid or not pod.spec.node_name:
            raise RefusedError("the pod of the token is another one by now", reason="NoNode")
        return pod.spec.node_name


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode()).digest()


def expiry(token: str) -> float:
    """The token's `exp`, which the API server has verified already; 0: it has none that can be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0.0
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims).exp
    except (ValueError, msgspec.MsgspecError):
        return 0.0
