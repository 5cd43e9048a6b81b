# SPDX-License-Identifier: Apache-2.0
"""Conversations whose answers come in the order of what they answer, and do not say what that is.

An answer that is missed shifts all that follow, and who joins in the middle does not know how much is not answered yet. So
such a connection is certain where its first bytes were seen, or once it has answered all that it was asked, and nothing
else, several times in turn; what is said before is not told. Where something was not seen, the next that is asked shows that
all before has been answered, if this client waits for its answers; if it does not, that is found out anew.
"""

from __future__ import annotations

from typing import Protocol

from kernelspan_agent.model import Payload
from kernelspan_agent.protocols.exchanges import Told

TURNS = 3  # asked and answered, after which a connection that we joined in the middle is certain


class Side(Protocol):
    """Reads one direction."""

    is_lost: bool  # where what follows begins is not known

    @property
    def is_inside(self) -> bool:
        """Whether something has begun and not ended."""
        ...

    def reset(self) -> None:
        """What follows is a beginning."""
        ...


class OrderedTalk:
    """One connection. `requests_sent`: whether it is our end that asks."""

    def __init__(self, requests_sent: bool, requests: Side, replies: Side, *, is_certain: bool) -> None:
        self._requests_sent = requests_sent
        self.__requests, self.__replies = requests, replies
        self._is_certain = is_certain
        self._is_multiplexed = False  # it is asked while answers to others are on their way
        self._is_over = False  # it is no such conversation any more
        self._has_answered = False  # the last call was an answer's
        self._turns = -1  # that were certain, one after another, of a connection that is not
        self._asked = self._answered = 0  # in this turn, while that is not certain
        self._asked_at: int | None = None  # where the last call that asked ended

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told = Told()
        if self._is_over:
            return told
        asks = payload.sends == self._requests_sent
        if missed:
            (self.__requests if asks else self.__replies).is_lost = True
            self._lose(told)
        if asks:
            self._asked_at = payload.position
            if not self._is_certain and (self._turns < 0 or (self._has_answered and not self._goes_on())):
                self._turn(told)
            elif self._is_certain and self._has_answered and self._waits():
                self._is_multiplexed = True
            # what is sent goes out from the call's begin, what is received is there at its end
            self._take_requests(payload, start_ns if payload.sends else end_ns, told)
        else:
            self._take_replies(payload, end_ns, told)
        self._has_answered = not asks
        return told

    def _take_requests(self, payload: Payload, when_ns: int, told: Told) -> None:
        raise NotImplementedError

    def _take_replies(self, payload: Payload, when_ns: int, told: Told) -> None:
        raise NotImplementedError

    def _waits(self) -> bool:
        """Whether something is not answered."""
        raise NotImplementedError

    def _goes_on(self) -> bool:
        """Whether an answer has come in the middle of what is asked."""
        return False

    def _end_all(self, told: Told) -> None:
        """What is not answered is told as it is: its answer is not known."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Something was not seen."""

    def _was_asked_unseen(self, payload: Payload) -> bool:
        """Whether more had been asked, when this answer moved, than we saw."""
        return None not in {self._asked_at, payload.other} and self._asked_at != payload.other

    def _turn(self, told: Told) -> None:
        """Something is asked after an answer: whether all was answered, and nothing else."""
        requests, replies = self.__requests, self.__replies
        is_even = 0 < self._asked == self._answered and not (requests.is_inside or replies.is_inside)
        is_lost = requests.is_lost or replies.is_lost
        if is_lost and self._has_answered and not self._is_multiplexed and self._turns >= TURNS:
            self._is_certain = True  # it was before, and waits for its answers
        else:
            self._turns = max(self._turns, 0) + 1 if is_even and not is_lost else 0
            self._is_certain = self._turns >= TURNS
        self._end_all(told)
        self._asked = self._answered = 0
        requests.reset()
        replies.reset()

    def _lose(self, told: Told) -> None:
        """Some of what was said is not known: which answer is whose is not certain any more."""
        if not self._is_certain:
            return
        self._is_certain = False
        self._turns = -1 if self._is_multiplexed else TURNS
        self._forget()
        if self._is_multiplexed:
            self._end_all(told)

    def _out_of_step(self, told: Told) -> None:
        """There was an answer to nothing."""
        self._is_multiplexed = True
        self._lose(told)
