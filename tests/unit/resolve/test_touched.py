# SPDX-License-Identifier: Apache-2.0
"""Where libraries go: bounded places whose counts are exact, however many there are."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Segment
from kernelspan_agent.resolve.touched import (
    MAX_PLACES,
    NO_ROOT,
    Place,
    Places,
    Touched,
    destination_text,
    folder_of,
    folder_text,
)
from kernelspan_agent.ring.records import OWN_OPERATION
from kernelspan_api import semconv
from tests.unit.resolve.acting import Act, batch, stack

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
PLACES = st.lists(st.lists(NAMES, min_size=0, max_size=12).map(lambda names: ("/", *names)), max_size=80)


@given(PLACES, st.integers(1, 10))
def test_nothing_is_lost_to_the_bound(places: list[Place], limit: int) -> None:
    """Never more than the limit; every place's operations are at it or at one above it, and nowhere else."""
    subject, plain = Places(limit), Counter[Place]()
    for place in places:
        subject.add(place, 2)
        plain[place] += 2
        assert len(subject.counts) <= limit
    assert sum(subject.counts.values()) == plain.total()
    level = max(map(len, subject.counts), default=0)
    expected = Counter[Place]()
    for place, count in plain.items():
        expected[place[:level]] += count
    assert subject.counts == expected


def test_where_there_are_few_they_are_as_fine_as_they_come() -> None:
    """Up to the limit none is made coarser; the one too many makes all of the deepest coarser, and no other."""
    subject = Places(3)
    for place in (("/", "etc"), ("/", "var", "a"), ("/", "var", "b")):
        subject.add(place, 1)
    assert set(subject.counts) == {("/", "etc"), ("/", "var", "a"), ("/", "var", "b")}
    subject.add(("/", "var", "c"), 1)
    assert subject.counts == {("/", "etc"): 1, ("/", "var"): 3}
    assert subject.most() == [(("/", "var"), 3), (("/", "etc"), 1)]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/passwd", "/etc/"),
        ("/passwd", "/"),
        ("/", "/"),
        ("/a//b/c", "/a/b/"),
        ("/a/b/", "/a/b/"),
        ("/1/2/3/4/5/6/7/8/9/10", "/1/2/3/4/5/6/7/8/9/"),
        ("pipe:[12]", NO_ROOT),
        ("a/b", NO_ROOT),
    ],
)
def test_the_folder_of_a_file(path: str, text: str) -> None:
    """Of what does not begin at the root no folder is claimed."""
    assert folder_text(folder_of(path)) == text


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (("tcp", "192.0.2.1", "443"), "192.0.2.1:443"),
        (("tcp", "2001:db8::1", "443"), "[2001:db8::1]:443"),
        (("udp", "192.0.2.1"), "192.0.2.1"),
        (("unix", "/run/x"), "unix:/run/x"),
        (("tcp",), "any tcp"),
        ((), "anywhere"),
    ],
)
def test_a_destination_as_text(place: Place, text: str) -> None:
    """With its port as long as that is known."""
    assert destination_text(place) == text


FILES = [Segment({semconv.FILE_PATH: path}) for path in ("/a/1", "/a/2", "/b/1", "/")] + [Segment(), None]
SOCKETS = [
    Segment(
        {semconv.NETWORK_PEER_ADDRESS: "192.0.2.1", semconv.NETWORK_PEER_PORT: port, semconv.NETWORK_TRANSPORT: "tcp"}
    )
    for port in (80, 443)
]
PLAIN: dict[int, tuple[str, str]] = {id(each): ("", "") for each in FILES}
PLAIN |= {id(each): (text, "") for each, text in zip(FILES, ("/a/", "/a/", "/b/", "/"), strict=False)}
PLAIN |= {id(each): ("", f"192.0.2.1:{port}") for each, port in zip(SOCKETS, (80, 443), strict=True)}


@given(st.lists(st.tuples(st.integers(0, 513), st.sampled_from([*FILES, *SOCKETS])), max_size=60), st.integers(1, 60))
def test_by_library_and_place(rows: list[tuple[int, Segment | None]], size: int) -> None:
    """As a plain count has it, in batches of any size; an own probe's attributes are no places."""
    subject = Touched()
    folders: dict[int, Counter[str]] = defaultdict(Counter)
    destinations: dict[int, Counter[str]] = defaultdict(Counter)
    nobody = stack()
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        made = batch([Act(2, nobody, 0, segment) for _, segment in part])
        subject.add(made, np.array([number for number, _ in part], np.intp))
        own = batch([Act(OWN_OPERATION, nobody, 0, segment) for _, segment in part])
        subject.add(own, np.array([number for number, _ in part], np.intp))
    for number, segment in rows:
        folder, destination = PLAIN[id(segment)]
        folders[number].update([folder] if folder else [])
        destinations[number].update([destination] if destination else [])
    shown = {n: {folder_text(place): c for place, c in each.most()} for n, each in subject.folders.items()}
    assert shown == {number: dict(each) for number, each in folders.items() if each}
    shown = {n: {destination_text(place): c for place, c in each.most()} for n, each in subject.destinations.items()}
    assert shown == {number: dict(each) for number, each in destinations.items() if each}


def test_a_server_of_many_clients_is_bounded() -> None:
    """Thousands of peers: their ports go first, then their addresses; the sum stays."""
    subject = Touched()
    for client in range(3000):
        peer = {
            semconv.NETWORK_PEER_ADDRESS: f"192.0.2.{client % 50}",
            semconv.NETWORK_PEER_PORT: 1024 + client,
            semconv.NETWORK_TRANSPORT: "tcp",
        }
        subject.add(batch([Act(18, stack(), 0, Segment(peer))]), np.zeros(1, np.intp))
    found = subject.destinations[0]
    assert len(found.counts) == 50 <= MAX_PLACES
    assert {destination_text(place): count for place, count in found.most()} == {f"192.0.2.{n}": 60 for n in range(50)}
