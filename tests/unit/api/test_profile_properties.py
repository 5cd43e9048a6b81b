# SPDX-License-Identifier: Apache-2.0
"""Random documents: the reader never fails but by ProfileError, and what it accepts survives a round trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import TraceProfile, ignored_standalone, load, unavailable, validate
from kernelspan_api.resource import KINDS
from kernelspan_api.rules import RULES
from tests.support.profile_strategies import PROFILES

MESSAGES = {rule.message for rule in RULES}
FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


class Quoting(yaml.SafeDumper):
    """Quotes every string: PyYAML leaves 0E0 plain, which is text to it and a float to Kubernetes and to us."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def write(document: object) -> str:
    """YAML that every reader reads alike."""
    return yaml.dump(document, Dumper=Quoting, allow_unicode=True)


def outcome(read: Callable[..., TraceProfile], *args: object) -> tuple[TraceProfile | None, list[str]]:
    """The profile, or the messages of what is wrong; any other exception ends the test."""
    try:
        return read(*args, standalone=True), []
    except ProfileError as error:
        return None, [one.message for one in error.problems]


@FAST
@given(PROFILES)
def test_round_trip(document: dict[str, Any]) -> None:
    """What keeps the types is refused by rules alone; what is accepted reads the same after it was written."""
    text = write(document)
    profile, messages = outcome(load, text)
    assert set(messages) <= MESSAGES
    event("accepted" if profile else "refused by a rule")
    if profile is None:
        assert messages
        return
    again = load(write(msgspec.to_builtins(profile)), standalone=True)
    assert again == profile == validate(document, standalone=True)
    assert unavailable(again) == unavailable(profile)
    assert ignored_standalone(again) == ignored_standalone(profile)


@st.composite
def damaged(draw: st.DrawFn) -> object:
    """A document within the types, with one place replaced by anything."""
    document = draw(PROFILES)
    where: Any = document
    while True:
        steps = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not steps:
            return document
        step = draw(st.sampled_from(steps))
        if not isinstance(where[step], (dict, list)) or draw(st.integers(0, 3)) == 0:
            where[step] = draw(ANYTHING)
            return document
        where = where[step]


@FAST
@given(damaged())
def test_our_validator_and_msgspec_agree(document: object) -> None:
    """Nothing that we accept is refused by the types' own decoder, and nothing it refuses gets through."""
    profile, messages = outcome(validate, document)
    assert not any(message.startswith("must be a valid ") for message in messages)
    assert all(message.startswith(("must ", "the key must ")) for message in messages)
    if profile is None:
        assert messages
    else:
        assert isinstance(document, dict)
        msgspec.convert(document, KINDS[document["kind"]])


@FAST
@given(ANYTHING)
def test_any_object(document: object) -> None:
    """No object is a reason to crash."""
    profile, messages = outcome(validate, document)
    assert profile is None
    assert messages


YAMLISH = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            ": ",
            "? ",
            "- ",
            ", ",
            "&a ",
            "*a",
            "!!str ",
            "!!int ",
            "!x ",
            "!!binary ",
            "|\n",
            ">\n",
            "\n",
            "  ",
            "'",
            '"',
            "#",
            "%YAML 1.1\n",
            "%TAG ! a\n",
            "---",
            "...",
            "<<",
            "=",
            "~",
            "0x",
            ".inf",
            "\\U00FFFFFF",
            "\\x",
            "\t",
            "apiVersion: kernelspan.io/v1alpha1\n",
            "kind: TraceProfile\n",
            "metadata: {name: x}\n",
            "spec: ",
            "files: ",
        ]
    )
    | st.text(max_size=4)
).map("".join)


@settings(max_examples=300, deadline=None)
@given(YAMLISH | st.binary(max_size=64))
def test_any_text(text: str | bytes) -> None:
    """No text is a reason to crash."""
    profile, messages = outcome(load, text)
    assert (profile is None) == bool(messages)
