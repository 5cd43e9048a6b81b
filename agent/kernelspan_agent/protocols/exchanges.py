# SPDX-License-Identifier: Apache-2.0
"""Requests and what answers them, told from what the calls on a connection moved: what all protocols have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

from kernelspan_agent.model import Payload, ThreadTime, WireProtocol

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what answered it. Times: Unix epoch, ns. `is_server`: the request came in here.

    `start_ns`: its first byte. `end_ns`: the last byte of the response, as far as it was seen; 0: none of it.
    `exchange_id`: Payload's of the call that its first byte came with, if it began nothing else.
    """

    protocol: ClassVar[WireProtocol]
    ends_when_closed: ClassVar[bool] = False  # without an answer, with what it was asked on
    is_server: bool
    start_ns: int
    end_ns: int = field(default=0, kw_only=True)
    is_open_ended: bool = field(default=False, kw_only=True)  # the response's length was not told
    exchange_id: int = field(default=0, kw_only=True)

    @property
    def said(self) -> tuple[str, ...]:
        """What is read the same at both ends; empty where no protocol says it."""
        return ()

    def closed(self, when_ns: int) -> None:
        """No answer to it has come until what it was asked on was closed."""
        if self.ends_when_closed and not self.end_ns:
            self.end_ns = max(self.start_ns, when_ns)

    @property
    def subjects(self) -> tuple[str, ...]:
        """What the api calls its protocol; several: any of these."""
        return (self.protocol.name,)

    def is_askers(self, sender: object) -> bool:  # noqa: ARG002
        """Whether the context that has sent it is the one that asked. To be asked once, of each that is sent."""
        return True

    @property
    def is_told(self) -> bool:
        """Whether it has a span, as far as is known when it has ended."""
        return True

    @property
    def has_head(self) -> bool:
        """Whether all that says what is asked was seen."""
        return True


@dataclass(slots=True)
class Told:
    """What one call brought: requests that began in it, those that it completed, those whose response began or ended in it.

    `open_ended`: those whose response has begun and may end with any byte. `was_asked`: it received bytes of requests.
    `given_up`: requests whose answer was not seen, or cannot be told from another's. `untold`: requests in it of which too
    little is known to tell them.
    `unreadable`: messages that are none, or were not seen far enough. `is_whole`: all that was moved was looked
    at, and nothing before it was missed, as HTTP/1 says it. `thread`: that made the call, at its end.
    An Exchange itself may know more already: calls after this one are read before anybody looks at it.
    """

    began: list[Exchange] = field(default_factory=list)
    asked: list[Exchange] = field(default_factory=list)
    answered: list[Exchange] = field(default_factory=list)
    ended: list[Exchange] = field(default_factory=list)
    open_ended: list[Exchange] = field(default_factory=list)
    given_up: list[Exchange] = field(default_factory=list)
    was_asked: bool = False
    untold: int = 0
    unreadable: int = 0
    is_whole: bool = False
    thread: ThreadTime | None = None

    def is_only(self, exchange: Exchange) -> bool:
        """Whether the call has brought this request, as far as it has come, and nothing else."""
        others = self.answered or self.ended or self.untold or self.unreadable
        return self.is_whole and self.began == [exchange] and self.asked in ([], [exchange]) and not others


class Talk(Protocol):
    """What is said on one connection: a class for each protocol."""

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """What a call brings. `start_ns`, `end_ns`: of the call, Unix epoch. `missed`: bytes went before it unseen."""
        ...


def read(feed: Callable[[bytes, int], list[T]], payload: Payload) -> list[T]:
    """What a reader of one direction finds in a call. `feed`: is given bytes, and how many there were from where they begin."""
    data, tail, moved = payload.data, payload.tail, payload.moved
    if len(data) + len(tail) == moved:
        return feed(data + tail, moved)
    return feed(data, moved - len(tail)) + (feed(tail, len(tail)) if tail else [])


class TalkClass(Protocol):
    """Makes them."""

    def begin(self, payload: Payload) -> Talk | None:
        """A connection whose first bytes that we see are these; None: they do not say who asks whom."""
        ...
