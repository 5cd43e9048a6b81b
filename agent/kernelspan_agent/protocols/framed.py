# SPDX-License-Identifier: Apache-2.0
"""Messages that say their own length, one behind the other on a connection, of which the beginnings are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernelspan_agent.model import Payload


@dataclass(frozen=True, slots=True)
class Message:
    """`head`: the first of its `length` bytes, what says the length with them. `first`: the call that it began in."""

    head: bytes
    length: int
    first: int


class Asking:
    """Since when messages that ask something are on their way, and by what number each is known at the other end."""

    def __init__(self) -> None:
        self._begun = 0, 0

    def of(
        self, stream: Framed, messages: list[Message], payload: Payload, start_ns: int, end_ns: int
    ) -> list[tuple[Message, int, int]]:
        """What a call has completed, each with its time (Unix epoch, ns) and exchange_id (0: none that is its own)."""
        # what is sent goes out from the call's begin, what is received is there at its end
        now = start_ns if payload.sends else end_ns, payload.exchange_id if len(messages) < 2 else 0
        found = [(each, *(now if each.first == stream.calls else self._begun)) for each in messages]
        if stream.first == stream.calls:
            self._begun = now[0], 0 if messages else payload.exchange_id
        return found


class Framed:
    """One direction. `prefix`: bytes that say a message's length; `length_of`: all of its bytes, by these; 0: they are none.

    `is_one`: whether a call moved one message, or the beginning of one: by that it goes on after something was missed.
    `calls`: how many were read; `first`: that in which the message at hand began.
    """

    def __init__(
        self,
        prefix: int,
        length_of: Callable[[bytes | bytearray], int],
        is_one: Callable[[Payload], bool],
        most: int = 4096,
    ) -> None:
        self._prefix, self._length_of, self._is_one, self._most = prefix, length_of, is_one, most
        self._head = bytearray()  # of the message at hand
        self._seen = 0  # bytes of it that have come
        self.first = self.calls = 0
        self._is_lost = False

    def goes_on(self, prefix: bytes) -> None:
        """What says a length has been read alone."""
        self._head += prefix
        self._seen = len(prefix)
        self.first = self.calls + 1  # as if it came with what follows

    def feed(self, payload: Payload, *, missed: bool) -> list[Message]:
        """Those that this call completes."""
        self.calls += 1
        if missed:
            self._lose()
        if self._is_lost and not self._is_one(payload):
            return []
        self._is_lost = False
        data, tail, moved = payload.data, payload.tail, payload.moved
        found: list[Message] = []
        if len(data) + len(tail) == moved:
            self._take(data + tail, moved, found)
        else:
            self._take(data, moved - len(tail), found)
            self._take(tail, len(tail), found)
        return found

    def _lose(self) -> None:
        self._is_lost = True
        self._head.clear()
        self._seen = 0

    def _take(self, data: bytes, count: int, found: list[Message]) -> None:
        """`data`: the first of `count` bytes."""
        at = 0
        while at < count and not self._is_lost:
            if not self._seen:
                self.first = self.calls
            length = self._length_of(self._head) if self._seen >= self._prefix else self._prefix
            step = min(length - self._seen, count - at)
            if len(self._head) == self._seen:  # nothing is missing of it so far
                self._head += data[at : at + min(step, self._most - len(self._head))]
            at += step
            self._seen += step
            if self._seen <= self._prefix and len(self._head) < self._seen:
                self._lose()  # the length itself was not seen
            elif self._seen >= self._prefix:
                length = self._length_of(self._head)
                if length < self._seen:
                    self._lose()
                elif length == self._seen:
                    found.append(Message(bytes(self._head), length, self.first))
                    self._head.clear()
                    self._seen = 0
