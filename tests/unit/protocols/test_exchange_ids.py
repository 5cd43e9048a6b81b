# SPDX-License-Identifier: Apache-2.0
"""Which request a call's number is of: of the one that begins with its first byte, and of no other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Payload
from kernelspan_agent.protocols.connections import Connections
from kernelspan_agent.protocols.http1talk import HttpExchange

FIRST = 2**32 - 40  # where the connection's bytes begin: the numbers begin anew in the middle of them
U32 = 0xFFFFFFFF


def heads(count: int) -> list[bytes]:
    return [b"GET /%d HTTP/1.1\r\nHost: shop\r\n\r\n" % number for number in range(count)]


def ids(data: bytes, cuts: list[int], lost: set[int], *, sends: bool) -> dict[str, int]:
    """By target, of a connection whose bytes come in pieces, some of which are not seen."""
    connections, found, at, clock = Connections(), {}, 0, 0
    for number, end in enumerate([*sorted(cuts), len(data)]):
        piece = data[at:end]
        at, clock = end, clock + 10
        if piece and number not in lost:
            payload = Payload(1, sends, len(piece), piece, position=FIRST + end & U32, other=77)
            told = connections.feed(payload, clock, clock + 5)
            for each in told.began if told is not None else ():
                assert isinstance(each, HttpExchange)
                found[each.request.target] = each.exchange_id
    return found


@given(st.integers(1, 4), st.lists(st.integers(0, 120), max_size=12), st.sets(st.integers(0, 11)), st.booleans())
def test_a_number_is_of_the_request_that_begins_there(count: int, cuts: list[int], lost: set[int], sends: bool) -> None:
    """However they are cut, and whatever is lost: where a request has a number it is where its call begins, or none."""
    each = heads(count)
    data = b"".join(each)
    cuts = [cut for cut in cuts if cut < len(data)]
    begins = {f"/{number}": sum(map(len, each[:number])) for number in range(count)}
    calls = {0, *cuts}
    for target, number in ids(data, cuts, lost, sends=sends).items():
        if number:
            call = (number >> 32) - FIRST & U32
            assert call in calls
            assert call <= begins[target] < call + len(data)
            assert not any(call <= other < begins[target] for other in begins.values())


def test_a_head_in_pieces_has_the_number_of_the_first() -> None:
    """Cut anywhere, also where the numbers begin anew."""
    (data,) = heads(1)
    for cut in range(1, len(data)):
        assert ids(data, [cut, min(cut + 3, len(data))], set(), sends=True) == {"/0": FIRST << 32 | 77}


def test_a_head_with_a_hole_has_none() -> None:
    """What goes on behind it may be the next request's."""
    first, second = heads(2)
    assert ids(first + second, [20, len(first), len(first) + 4], {1}, sends=False).get("/0") in (None, 0)
