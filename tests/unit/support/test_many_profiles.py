# SPDX-License-Identifier: Apache-2.0
"""Profiles by their numbers: the same number is the same profile, and a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import many_profiles
from tests.support.many_profiles import Made, State, joined, profile_of


def test_a_number_is_a_profile() -> None:
    """Always the same; another number another one."""
    texts = [profile_of(number).generated.text for number in range(12)]
    assert texts == [profile_of(number).generated.text for number in range(12)]
    assert len(set(texts)) > 6


def test_what_is_joined_shares_no_name() -> None:
    """Each has its own maps and functions; what all share is there once."""
    text = joined([profile_of(number).generated.text for number in (1, 2)])
    assert text.count('#include "own.h"') == 1
    assert "own_calls.h" not in text
    for index in (0, 1):
        assert text.count(f"struct ks_own_value_{index} {{") == 1
        assert (
            text.count(f"int ks_own_enter_{index}(void *ctx)") + text.count(f"int ks_own_enter0_{index}(void *ctx)")
            == 1
        )


class Tried:
    """Stands for compiling: notes the numbers, fails those that are told to, is stopped before one."""

    def __init__(self, fail: Sequence[int] = (), stop_before: int = -1) -> None:
        self.numbers: list[int] = []
        self.fail, self.stop_before = fail, stop_before

    def __call__(self, made: Sequence[Made], **_: Any) -> list[dict[str, Any] | str]:
        if any(each.number == self.stop_before for each in made):
            raise KeyboardInterrupt
        self.numbers += [each.number for each in made]
        return ["wrong" if each.number in self.fail else {"programs": {}, "maps": {}} for each in made]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the state is kept; nothing is loaded."""
    path = tmp_path / "deep" / "state.json"
    monkeypatch.setattr(many_profiles, "state_path", lambda: path)
    monkeypatch.setattr(many_profiles, "looked_at", lambda *_, **__: False)
    monkeypatch.setattr(many_profiles, "AT_ONCE", 4)
    return path


def run(monkeypatch: pytest.MonkeyPatch, tried: Tried, *arguments: str) -> int:
    """The command."""
    monkeypatch.setattr(many_profiles, "compiled", tried)
    monkeypatch.setattr("sys.argv", ["many_profiles", *arguments])
    return many_profiles.main()


@pytest.mark.usefixtures("kept")
def test_it_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number once, none left out; a second run of all of them has nothing to do."""
    first, second, third = Tried(stop_before=5), Tried(), Tried()
    assert run(monkeypatch, first, "10") == 130
    assert run(monkeypatch, second, "10") == 0
    assert run(monkeypatch, third, "10") == 0
    assert first.numbers + second.numbers == list(range(10))
    assert third.numbers == []


def test_what_failed_is_kept_and_tried_again(kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """By its number; it is forgotten when it compiles."""
    assert run(monkeypatch, Tried(fail=[3]), "4") == 1
    assert "number 3: wrong" in capsys.readouterr().out
    assert json.loads(kept.read_bytes())["failed"] == {"3": "wrong"}
    again = Tried()
    assert run(monkeypatch, again, "6") == 0
    assert again.numbers == [3, 4, 5]


def test_a_broken_state_begins_anew(kept: Path) -> None:
    """As one that is not there."""
    kept.parent.mkdir()
    kept.write_text("{")
    assert many_profiles._read(kept) == State()


def test_one_number_alone_keeps_no_account(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--first is for looking at one."""
    tried = Tried()
    assert run(monkeypatch, tried, "2", "--first", "7") == 0
    assert tried.numbers == [7, 8]
    assert not kept.exists()
