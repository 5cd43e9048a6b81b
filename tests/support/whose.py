# SPDX-License-Identifier: Apache-2.0
"""Whose operations are: of servers that answer `/job/N/COUNT` and touch files named `/kernelspan-request/N/WHAT` for it.

`WHAT` is a word, which may be empty, and a number. An operation below a request that bears another N is wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kernelspan_api import semconv
from tests.support.otlp_json import ReceivedSpan, spans_of

_TOUCHED = re.compile(r"/kernelspan-request/(\d+)/([a-z]*)\d+")
Owners = dict[int, dict[str, Counter[int | None]]]
"""By the number in a file's name and by the word: how many operations are below the request of which number."""


@dataclass
class Found:
    """What spans say: requests by their numbers, and whose each operation is."""

    requests: dict[int, ReceivedSpan] = field(default_factory=dict)
    owners: Owners = field(default_factory=dict)
    unwalked: dict[int, Counter[str]] = field(
        default_factory=dict
    )  # operations whose stack is not known, by their words

    def between(self, first: int, last: int) -> Owners:
        """What was done for the requests `first` to `last` - 1, none of which is below another request."""
        owners = {number: each for number, each in self.owners.items() if first <= number < last}
        wrong = {n: each for n, each in owners.items() if any(found.keys() - {n, None} for found in each.values())}
        assert not wrong
        return owners


def read(spans: list[ReceivedSpan]) -> Found:
    """Which request each operation is below, through all spans between."""
    by_id, found = {span.span_id: span for span in spans}, Found()
    for span in spans:
        if span.kind == "SERVER":
            found.requests[_number_of(span)] = span
        elif (touched := _TOUCHED.fullmatch(str(span.attributes.get("file.path", "")))) is not None:
            above = _request_above(span, by_id)
            owners = found.owners.setdefault(int(touched[1]), {}).setdefault(touched[2], Counter())
            owners[_number_of(above) if above is not None else None] += 1
            if semconv.CODE_MISSING in span.attributes:
                found.unwalked.setdefault(int(touched[1]), Counter())[touched[2]] += 1
    return found


def attached(owners: Owners, name: str = "") -> tuple[int, int]:
    """How many operations of this name are below their request, and how many there are."""
    each = [(found[name][number], found[name].total()) for number, found in owners.items() if name in found]
    return sum(mine for mine, _ in each), sum(total for _, total in each)


@dataclass
class Told:
    """What the agent has told so far, read once: requests, and at which ports an operation was found to be one's."""

    output: Path
    position: int = 0
    by_id: dict[str, ReceivedSpan] = field(default_factory=dict)
    touched: list[ReceivedSpan] = field(default_factory=list)
    requests: set[int] = field(default_factory=set)

    def has(self, port: int) -> bool:
        """Whether one was, at this port."""
        self._read()
        owners = (_request_above(span, self.by_id) for span in self.touched)
        return any(owner is not None and owner.attributes["server.port"] == port for owner in owners)

    def has_all(self, numbers: Iterable[int]) -> bool:
        """Whether all of these requests were told."""
        self._read()
        return self.requests.issuperset(numbers)

    def _read(self) -> None:
        with self.output.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                for span in spans_of(json.loads(line)):
                    if _TOUCHED.fullmatch(str(span.attributes.get("file.path", ""))):
                        self.touched.append(span)
                    else:
                        self.by_id[span.span_id] = span
                    if span.kind == "SERVER":
                        self.requests.add(_number_of(span))


def _request_above(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> ReceivedSpan | None:
    above: ReceivedSpan | None = span
    while above is not None and above.kind != "SERVER":
        above = by_id.get(above.parent_span_id)
    return above


def _number_of(span: ReceivedSpan) -> int:
    matched = re.match(r"/job/(\d+)/\d+", str(span.attributes["url.path"]))
    assert matched is not None
    return int(matched[1])
