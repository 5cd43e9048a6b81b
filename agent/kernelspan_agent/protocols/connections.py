# SPDX-License-Identifier: Apache-2.0
"""All connections of a profile's processes, each with what is said on it: the table of protocols is here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.dns import DnsTalk
from kernelspan_agent.protocols.exchanges import Talk, TalkClass, Told
from kernelspan_agent.protocols.http1talk import HttpTalk
from kernelspan_agent.protocols.http2talk import Http2Talk
from kernelspan_agent.protocols.kafka import KafkaTalks
from kernelspan_agent.protocols.mongodb import MongoTalk
from kernelspan_agent.protocols.mysql import MysqlTalks
from kernelspan_agent.protocols.postgresql import PostgresTalks
from kernelspan_agent.protocols.redis import RedisTalk
from kernelspan_agent.protocols.tls import TlsTalk

MAX_CONNECTIONS = 16384
_U32 = 0xFFFFFFFF

TALKS: dict[WireProtocol, Callable[[], TalkClass]] = {
    WireProtocol.HTTP: lambda: HttpTalk,
    WireProtocol.REDIS: lambda: RedisTalk,
    WireProtocol.POSTGRESQL: PostgresTalks,
    WireProtocol.MYSQL: MysqlTalks,
    WireProtocol.HTTP2: lambda: Http2Talk,
    WireProtocol.DNS: lambda: DnsTalk,
    WireProtocol.TLS: lambda: TlsTalk,
    WireProtocol.MONGODB: lambda: MongoTalk,
    WireProtocol.KAFKA: KafkaTalks,
}


@dataclass(slots=True)
class _Connection:
    """`received`, `sent`: where the last bytes of either direction ended; None: not known."""

    protocol: WireProtocol
    talk: Talk
    received: int | None = None
    sent: int | None = None

    def has_missed(self, payload: Payload) -> bool:
        """Whether bytes went in this direction, since the last that we saw, that we did not: lost, or by other calls."""
        before, now = self.sent if payload.sends else self.received, payload.position
        if payload.sends:
            self.sent = now
        else:
            self.received = now
        return before is not None and now is not None and (before + payload.moved) & _U32 != now


class Connections:
    """By their ids; those longest without a byte are given up when there are too many. `wanted`: others are passed over."""

    def __init__(self, wanted: Iterable[WireProtocol] = TALKS) -> None:
        self._wanted = {each: TALKS[each]() for each in wanted if each in TALKS}
        self._by_id: OrderedDict[int, _Connection] = OrderedDict()

    def feed(self, payload: Payload, start_ns: int, end_ns: int) -> Told | None:
        """What a call on a connection brings. `start_ns`, `end_ns`: of the call, Unix epoch."""
        known = self._by_id.get(payload.connection)
        if known is None or (payload.protocol and payload.protocol is not known.protocol):
            known = self._begin(payload)
            if known is None:
                return None
            return known.talk.feed(payload, start_ns, end_ns, missed=False)
        self._by_id.move_to_end(payload.connection)
        return known.talk.feed(payload, start_ns, end_ns, missed=known.has_missed(payload))

    def _begin(self, payload: Payload) -> _Connection | None:
        """`payload.protocol` UNKNOWN: so few bytes that the kernel could not say."""
        for protocol, talks in self._wanted.items():
            if payload.protocol not in {protocol, WireProtocol.UNKNOWN}:
                continue
            talk = talks.begin(payload)
            if talk is not None:
                ends = payload.position, payload.other
                made = self._by_id[payload.connection] = _Connection(
                    protocol, talk, *(ends[:: -1 if payload.sends else 1])
                )
                if len(self._by_id) > MAX_CONNECTIONS:
                    self._by_id.popitem(last=False)
                return made
        return None
