# SPDX-License-Identifier: Apache-2.0
"""The services put together: who is told of what. Started and stopped as one; knows nothing of kopf.

No plan is given before everything has been seen once: each profile that a list of our own names has come in as an event
or is gone again, and every watch has told what there was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import msgspec

from kernelspan_operator.errors import ApiError, ConfigurationError
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.models.profiles import Body, Profile, ProfileKey
from kernelspan_operator.models.spans import Spans, no_spans

from .agents import MAX_STREAMS, OPTIONS, Agents
from .auth import Auth
from .certificates import CHECK_SECONDS, Certificates
from .events import Events
from .existing import Existing
from .kube import Kube
from .meetings import Meetings
from .nodes import NODES, Nodes
from .plans import Plans
from .pods import Pods
from .profiles import Profiles, key_of
from .secrets import Secrets
from .status import Statuses
from .watch import Timing
from .watches import Watches
from .whom import Whom

LOOK_SECONDS = 0.02
STOP_SECONDS = 0.2  # streams do not end by themselves: what was said last is on its way
_log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How this operator runs."""

    namespace: str  # its own
    listen: str  # host:port of the agents' streams
    server_names: tuple[str, ...]  # what agents dial: names and addresses of the certificate
    agent_service_account: str  # namespace:name
    authority: str = "kernelspan-ca"  # name of the Secret and the ConfigMap
    policy: Policy = Policy()


class System:
    """All services. `start`, then feed `put` and `remove`; `close` at the end."""

    def __init__(self, kube: Kube, settings: Settings, timing: Timing | None = None, spans: Spans = no_spans) -> None:
        self.kube, self._settings = kube, settings
        self._tasks: list[asyncio.Task[None]] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._server: Any = None
        self.port = 0
        self.watches = Watches(kube, timing)
        self.profiles = Profiles(settings.policy, self._profile_changed)
        self.existing = Existing(self.watches.open, self.profiles.remove_uid)
        self.nodes = Nodes(self._node_touched, self._node_gone)
        self.pods = Pods(self.watches.open, self._nodes_touched, self._counted)
        self.whom = Whom(self.watches.open, self.pods)
        self.secrets = Secrets(self.watches.open, settings.namespace, self._judged)
        self.plans = Plans(
            self.profiles,
            self.pods,
            self.nodes,
            self.secrets,
            self._plan_changed,
            kube.now,
            spans=spans,
            busy=self._is_busy,
        )
        self.auth = Auth(kube, settings.agent_service_account, kube.now)
        self.agents = Agents(self.auth, self.plans, self._agent_changed, kube.now, spans)
        self.events = Events(kube, kube.now)
        self.statuses = Statuses(
            kube, self.profiles, self.pods, self.nodes, self.plans, self.agents, kube.now, self.events
        )
        names: Sequence[str] = settings.server_names
        self.certificates = Certificates(kube, settings.namespace, settings.authority, names, kube.now)
        self.meetings = Meetings(self.auth, self.pods.addresses, self.certificates.peer, self.agents.is_unreachable)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serves agents, watches nodes, and opens the plans when all is known. Raises ApiError, ConfigurationError."""
        await self.certificates.refresh()
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        self._server.add_generic_rpc_handlers((self.agents.handler(), self.meetings.handler()))
        try:
            self.port = self._server.add_secure_port(self._settings.listen, self.certificates.credentials())
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen at {self._settings.listen}", hint="see who has the port"
            ) from error
        await self._server.start()
        self.existing.start()
        self.watches.open(NODES, self.nodes.tell)
        self._tasks = [asyncio.ensure_future(self._open()), asyncio.ensure_future(self._keep_certificates())]

    async def close(self) -> None:
        """Ends everything; agents go on with the plans that they have. Once more does no harm."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._expiry is not None:
            self._expiry.cancel()
        self.plans.close()
        await self.statuses.close()
        await self.watches.close()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)

    async def _open(self) -> None:
        services = (self.existing, self.nodes, self.whom, self.pods, self.secrets)
        while not all(one.is_synced() for one in services):  # noqa: ASYNC110 - they know nothing of an event of ours
            await asyncio.sleep(LOOK_SECONDS)
        self.plans.open()
        self.agents.plans_opened()
        self.meetings.open()
        self.statuses.touch(one.key for one in self.profiles)
        self._expire()
        _log.info("plans.open profiles=%d pods=%d nodes=%d", len(list(self.profiles)), len(self.pods), len(self.nodes))

    async def _keep_certificates(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.certificates.refresh()
            except ApiError as error:
                _log.warning("certificates.failed message=%s", error)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def put(self, body: Body) -> None:
        """A profile as it is now. Never raises for what is wrong with it."""
        meta = body.get("metadata") or {}
        if self.existing.see(str(meta.get("uid", "")), namespaced="namespace" in meta):
            self.profiles.put(body)

    def remove(self, body: Body) -> None:
        """A profile that is gone."""
        uid = str((body.get("metadata") or {}).get("uid", ""))
        self.existing.bury(uid)
        self.profiles.remove(key_of(body), uid)

    # --- who is told of what ------------------------------------------------------------------------------------------

    def _profile_changed(self, key: ProfileKey, before: Profile | None, now: Profile | None) -> None:
        if before is not None and (now is None or now.uid != before.uid):
            self.statuses.remove(key)
        if now is None:
            self.whom.remove(key)
            self.secrets.remove(key)
        else:
            self.secrets.put(now)
            self.whom.put(now)
            # One that waits for its Secrets leaves the plans as they are: its form before goes on for that moment.
            if not now.pending:
                self.plans.touch_profile(key)
                self.statuses.touch([key])
        self._expire()

    def _judged(self, key: ProfileKey, problem: str) -> None:
        self.profiles.judge(key, problem)
        self.plans.touch_profile(key)
        self.statuses.touch([key])
        self._expire()

    def _nodes_touched(self, nodes: Iterable[str]) -> None:
        self.plans.touch(nodes)

    def _counted(self, keys: Iterable[ProfileKey]) -> None:
        self.statuses.touch(keys)

    def _node_touched(self, node: str) -> None:
        if any(one.spec is not None and one.spec.node_selector for one in self.profiles):
            self.plans.touch([node])
            self.statuses.touch_node(node)

    def _node_gone(self, node: str) -> None:
        self.agents.forget(node)
        self.meetings.forget(node)
        self.plans.touch([node])

    def _plan_changed(self, node: str, uids: frozenset[str]) -> None:
        self.agents.plan_changed(node)
        if uids:
            self.statuses.touch_node(node, uids)

    def _is_busy(self) -> bool:
        return self.agents.is_busy()

    def _agent_changed(self, node: str, uids: set[str] | None) -> None:
        self.statuses.touch_node(node, uids)

    def _expire(self) -> None:
        """What expires next is looked at then; an hour later at most, since clocks are set."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        now = self.kube.now()
        following = self.profiles.next_expiry(now)
        if following is not None and self.plans.is_open:
            seconds = min(max(following - now, 0.0) + LOOK_SECONDS, 3600.0)
            due = [one.key for one in self.profiles if one.expires() == following]
            self._expiry = asyncio.get_running_loop().call_later(seconds, self._expired, due)

    def _expired(self, keys: Sequence[ProfileKey]) -> None:
        for key in keys:
            self.plans.touch_profile(key)
        self.statuses.touch(keys)
        self._expire()
