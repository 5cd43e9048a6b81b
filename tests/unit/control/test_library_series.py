# SPDX-License-Identifier: Apache-2.0
"""Operations by library in /metrics: bounded, exact in their sum, and never going back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_agent.control.library_series import MAX_LABEL_CHARACTERS, LibrarySeries
from kernelspan_agent.resolve.acts import Acts
from tests.unit.resolve.acting import Act, batch, stack

OPEN, READ, CONNECT = 1, 2, 16
Series = dict[tuple[str, str, str], float]


class _One:
    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def collect(self) -> list[Metric]:
        return [self.metric]


def series(metric: Metric) -> Series:
    """What a scrape reads of it, from the text; no two lines have the same labels."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_One(metric))
    found: Series = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            assert sample.name == "kernelspan_library_operations_total"
            labels = (sample.labels["library"], sample.labels["version"], sample.labels["operation"])
            assert labels not in found
            found[labels] = sample.value
    return found


def test_by_library_and_kind() -> None:
    """The app's own have no library."""
    acts = Acts()
    acts.add(batch([Act(OPEN, stack("a", "app")), Act(OPEN, stack("a", "app")), Act(READ, stack("app"))]))
    assert series(LibrarySeries().collect(acts)) == {("a", "1", "file.open"): 2, ("", "", "file.read"): 1}


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([OPEN, READ, CONNECT])), max_size=40), max_size=5),
    st.integers(0, 12),
    st.integers(0, 20),
)
def test_bounded_and_monotone(rounds: list[list[tuple[int, int]]], most: int, libraries: int) -> None:
    """However many libraries come: at most so many series and `other`, the sum is right, and none is ever less."""
    acts, subject, before, total = Acts(libraries), LibrarySeries(most), Series(), 0
    for each in rounds:
        acts.add(batch([Act(kind, stack(f"lib{number}") if number else stack("app")) for number, kind in each]))
        total += len(each)
        found = series(subject.collect(acts))
        assert sum(found.values()) == total
        assert len([labels for labels in found if labels[0] not in ("", "other")]) <= most
        assert all(found.get(labels, 0) >= value for labels, value in before.items())
        before = found


def test_hostile_names() -> None:
    """Whatever a distribution calls itself is one line of text, cut; names that are the same then share a series."""
    acts = Acts()
    long = "x" * 5000
    names = ['quote"d', "new\nline", "back\\slash", "\udcff", long + "a", long + "b"]
    acts.add(batch([Act(OPEN, stack(name)) for name in names]))
    found = series(LibrarySeries().collect(acts))
    assert sum(found.values()) == len(names)
    assert found["x" * MAX_LABEL_CHARACTERS, "1", "file.open"] == 2
    assert found['quote"d', "1", "file.open"] == 1
