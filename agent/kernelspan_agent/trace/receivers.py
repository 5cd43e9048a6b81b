# SPDX-License-Identifier: Apache-2.0
"""Threads by what they have received: what each has not answered yet, and which of its connections are open.

A thread that receives a request before it has answered another one is a loop, or has left that to somebody else. What it
has at hand then, nobody knows; and that is so for as long as one of these is not answered, and for some time more, since it
may be alone with one at times.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from kernelspan_agent.model import ProcessInfo
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace.contexts import Key

DOUBT_NS = 60_000_000_000  # several times the pause of a service that is asked at all
MAX_THREADS = 16384

Place = tuple[ProcessInfo, int]  # a descriptor of a process


@dataclass(slots=True, eq=False)
class Receiver:
    """One thread."""

    key: Key
    open: dict[Exchange, Place] = field(default_factory=dict)
    connections: dict[Place, None] = field(default_factory=dict)  # of those that it was the last to read a request from
    doubt_ns: int = 0  # until then it is a loop


class Receivers:
    """Those that have something open or are in doubt. The first of too many are forgotten."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Key, Receiver] = OrderedDict()
        self._by_exchange: dict[Exchange, Receiver] = {}
        self._by_place: dict[Place, Receiver] = {}
        self.handed: dict[ProcessInfo, dict[Exchange, None]] = {}  # that others than who has received them may take on
        self._at: dict[Place, dict[Exchange, None]] = {}  # what is open there

    def __len__(self) -> int:
        return len(self._by_key)

    def received(self, exchange: Exchange, key: Key, place: Place) -> Receiver:
        """The thread has received it there, whoever received the beginning."""
        self.answered([exchange])
        before = self._by_place.get(place)
        found = self._of(key)
        if before is not None and before is not found:
            del before.connections[place]
            self._forget(before)
        found.open[exchange], self._by_exchange[exchange] = place, found
        self._at.setdefault(place, {})[exchange] = None
        found.connections[place], self._by_place[place] = None, found
        return found

    def hand(self, exchange: Exchange, info: ProcessInfo) -> None:
        """Whoever has received it leaves it to one of the process's other threads."""
        if exchange in self._by_exchange:
            self.handed.setdefault(info, {})[exchange] = None

    def open_at(self, place: Place) -> list[Exchange]:
        """What threads have received there, and is not answered."""
        return list(self._at.get(place, ()))

    def doubt(self, key: Key, now_ns: int) -> None:
        """The thread has turned out to be a loop."""
        self._of(key).doubt_ns = now_ns + DOUBT_NS

    def answered(self, exchanges: Iterable[Exchange]) -> None:
        """They are not open any more."""
        for exchange in exchanges:
            found = self._by_exchange.pop(exchange, None)
            if found is not None:
                self._close(exchange, found.open.pop(exchange))
                self._forget(found)

    def closed(self, place: Place) -> None:
        """What was not answered there will not be."""
        self.answered(list(self._at.get(place, ())))
        found = self._by_place.pop(place, None)
        if found is not None:
            del found.connections[place]
            self._forget(found)

    def of_process(self, info: ProcessInfo) -> None:
        """The process has ended."""
        for receiver in [each for key, each in self._by_key.items() if key[0] is info]:
            self._drop(receiver)

    def tick(self, now_ns: int) -> None:
        """Forgets doubts that are old."""
        for receiver in [each for each in self._by_key.values() if 0 < each.doubt_ns < now_ns]:
            receiver.doubt_ns = 0
            self._forget(receiver)

    def _of(self, key: Key) -> Receiver:
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = Receiver(key)
            if len(self._by_key) > MAX_THREADS:
                self._drop(next(iter(self._by_key.values())))
        return found

    def _close(self, exchange: Exchange, place: Place) -> None:
        if (handed := self.handed.get(place[0])) is not None:
            handed.pop(exchange, None)
            if not handed:
                del self.handed[place[0]]
        del self._at[place][exchange]
        if not self._at[place]:
            del self._at[place]

    def _forget(self, receiver: Receiver) -> None:
        if not (receiver.open or receiver.connections or receiver.doubt_ns):
            self._by_key.pop(receiver.key, None)

    def _drop(self, receiver: Receiver) -> None:
        self._by_key.pop(receiver.key, None)
        for exchange, place in receiver.open.items():
            self._by_exchange.pop(exchange, None)
            self._close(exchange, place)
        for place in receiver.connections:
            self._by_place.pop(place, None)
