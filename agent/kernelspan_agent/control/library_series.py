# SPDX-License-Identifier: Apache-2.0
"""Operations by library as Prometheus series, of which there is a bounded number.

Names of libraries are what programs bring along, so a series is only given its own labels as long as there are few. What
comes later is counted, by kind, at the library `other`; a series that has labels keeps them, so no counter goes back.
The program's own code, and what has no frames, has an empty label.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

from kernelspan_agent.process.procfs import printable
from kernelspan_agent.resolve.acts import NOBODY

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from kernelspan_agent.resolve.acts import Acts

MAX_SERIES = 1000  # with labels of their own; 200 libraries with five kinds of operations each
MAX_LABEL_CHARACTERS = 128
OTHER = "other"
_TEXT = (
    "Operations by the library that did them, before sampling; one that several profiles take counts for each. "
    "library is empty for a program's own code, and `other` beyond the first 1,000 series."
)
Labels = tuple[str, str, str]


class LibrarySeries:
    """Which series have their own labels. For one thread at a time."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max = max_series
        self._known: set[Labels] = set()

    def collect(self, acts: Acts) -> Metric:
        """The counters as they are now."""
        counted: Counter[Labels] = Counter()
        for number in acts.rows():
            library = acts.library(number)
            name, version = (OTHER, "") if library is None else (_label(library.name), _label(library.version))
            for kind, count in acts.by_kind(number).items():
                labels = ("", "", kind) if number == NOBODY else (name, version, kind)
                counted[labels if library is None else self._bounded(labels)] += count
        family = CounterMetricFamily("kernelspan_library_operations", _TEXT, labels=["library", "version", "operation"])
        for each, count in counted.items():
            family.add_metric(each, count)
        return family

    def _bounded(self, labels: Labels) -> Labels:
        if labels not in self._known:
            if len(self._known) >= self._max:
                return OTHER, "", labels[2]
            self._known.add(labels)
        return labels


def _label(text: str) -> str:
    return printable(text)[:MAX_LABEL_CHARACTERS]
