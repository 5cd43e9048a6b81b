# SPDX-License-Identifier: Apache-2.0
"""What spans say of Java code is what the JVM itself says of the very call: function, file and line, of every frame.

Interpreted, compiled by either compiler, inlined, made invalid while on a stack; all collectors. Nothing may be wrong.
"""

from __future__ import annotations

import itertools
import os

import pytest

from tests.support import java_runs, javas
from tests.support.java_runs import Outcome, needed, wanted_javas
from tests.support.truth import judge

pytestmark = pytest.mark.root
WAYS = {"interpreted": ["-Xint"], "simple": ["-XX:TieredStopAtLevel=1"], "usual": []}


def assert_all_right(outcome: Outcome, at_least: int) -> None:
    """Nothing is wrong, next to nothing missing, and enough was said for that to mean something."""
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said >= at_least, (verdict, outcome.frames)
    assert not verdict.wrong, (verdict, outcome.frames)
    assert verdict.missed <= verdict.said / 200, (verdict, outcome.frames)
    assert verdict.truncated <= verdict.said / 200, (verdict, outcome.frames)
    assert outcome.accounting["unaccounted"] == 0
    assert not outcome.accounting["dropped"]


@pytest.mark.parametrize(("label", "way"), [*itertools.product(wanted_javas(), WAYS), (javas.labels()[0], "usual")])
def test_every_frame_is_true(label: str, way: str) -> None:
    """Lambdas, reflection, method handles, constructors, static initialisers, inlined loops, threads one after another."""
    outcome = java_runs.traced(needed(label), "Kinds", "60", "100", options=WAYS[way])
    assert_all_right(outcome, 2300)


ALL_COLLECTORS = {
    "Serial": ["-XX:+UseSerialGC"],
    "Parallel": ["-XX:+UseParallelGC"],
    "G1": ["-XX:+UseG1GC"],
    "Shenandoah": ["-XX:+UseShenandoahGC"],
    "Z": ["-XX:+UseZGC"],
}


COLLECTORS = list(ALL_COLLECTORS)[0 if os.environ.get("KERNELSPAN_MATRIX") else -2 :]


@pytest.mark.parametrize("collector", COLLECTORS)
def test_every_collector(collector: str) -> None:
    """A thread that makes garbage all the time, in a small heap: nothing of Java's own structures moves under a stack."""
    options = [*ALL_COLLECTORS[collector], "-Xmx48m"]
    outcome = java_runs.traced(needed("bookworm-17"), "Kinds", "50", "30", "garbage", options=options)
    assert_all_right(outcome, 1500)


@pytest.mark.parametrize("label", wanted_javas())
def test_classes_that_are_made_and_dropped(label: str) -> None:
    """Whatever had an address before, a frame's name is that of the method that ran."""
    for options, classes, calls in (([], 400, 3), (["-XX:TieredStopAtLevel=1", "-XX:-BackgroundCompilation"], 30, 250)):
        outcome = java_runs.traced(needed(label), "Dropped", str(classes), str(calls), options=["-Xmx64m", *options])
        assert_all_right(outcome, classes * calls)
        names = {frame[1] for said in outcome.said for frame in said.frames if frame[1].startswith("method")}
        assert len(names) == classes


@pytest.mark.parametrize("options", [["-XX:TieredStopAtLevel=1"], ["-XX:-Inline", "-XX:-BackgroundCompilation"]])
@pytest.mark.parametrize("label", wanted_javas())
def test_code_that_becomes_invalid_on_the_stack(label: str, options: list[str]) -> None:
    """The place of its call is the true one, not that of the handler which its return address was made to lead to."""
    assert_all_right(java_runs.traced(needed(label), "Unmade", "40", options=options), 120)


@pytest.mark.parametrize("label", [label for label in wanted_javas() if javas.major_of(label) >= 21])
def test_virtual_threads(label: str) -> None:
    """Frames are those of the virtual thread; one that has waited has its outer frames on the heap, and the span says so."""
    outcome = java_runs.traced(needed(label), "Virtual", "400")
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said == 400
    assert not verdict.wrong, verdict
    assert verdict.missed <= 2, verdict
    assert 0 < verdict.truncated < 400, verdict  # those that waited: by themselves, or for a lock that they share
    said = {
        str(span.attributes["kernelspan.code.missing"])
        for found in outcome.spans.values()
        for span in found
        if "kernelspan.code.missing" in span.attributes
    }
    assert said == {"NotOnStack"}


def test_what_a_span_has_of_java() -> None:
    """The runtime's name and version are attributes of the resource; the JDK's own classes are the runtime's."""
    outcome = java_runs.traced(needed("bookworm-17"), "Kinds", "1", "1")
    spans = [span for found in outcome.spans.values() for span in found]
    assert len(spans) > 30
    assert {span.resource["process.runtime.name"] for span in spans} == {"OpenJDK Runtime Environment"}
    (version,) = {str(span.resource["process.runtime.version"]) for span in spans}
    assert version.startswith("17.")
    assert {span.attributes["kernelspan.code.origin"] for span in spans} == {"Runtime"}
