# SPDX-License-Identifier: Apache-2.0
"""Log lines: one a record, whatever a value holds."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.control import logs


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("kernelspan_agent")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def logged(stream: io.StringIO, level: str = "warning") -> logging.Logger:
    logs.configure(level, stream)
    return logging.getLogger("kernelspan_agent.export.x")


def test_json_where_nobody_looks() -> None:
    """Event and pairs as keys, numbers as numbers."""
    stream = io.StringIO()
    logged(stream).warning("export.failed output=%s lost=%d", "otlp x", 3)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["output"], line["lost"]) == ("export.failed", "otlp x", 3)
    assert (line["level"], line["logger"]) == ("warning", "kernelspan_agent.export.x")
    assert line["time"].endswith("Z")


def test_plain_on_a_terminal() -> None:
    """The same for people; a value with spaces is quoted."""
    stream = Terminal()
    logged(stream).warning("%s output=%s message=%s", "export.retry", "file", "a b")
    assert stream.getvalue() == 'kernelspan: warning export.retry output=file message="a b"\n'


def test_what_is_below_the_level_is_not_said() -> None:
    """info needs info."""
    stream = io.StringIO()
    logged(stream).info("agent.started seconds=%d", 1)
    assert stream.getvalue() == ""
    logged(stream, "info").info("agent.started seconds=%d", 1)
    assert json.loads(stream.getvalue())["event"] == "agent.started"


def test_configuring_twice_logs_once() -> None:
    """The handler is replaced."""
    stream = io.StringIO()
    logged(stream)
    logged(stream).error("a.b")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("template", ["Something %s happened", "no.pairs here=%s and more", "a.b c=%s d=%s"])
def test_a_message_of_another_form_is_kept_whole(template: str) -> None:
    """A library's own words."""
    arguments = ("x",) * template.count("%s")
    stream = io.StringIO()
    logged(stream).warning(template, *arguments)
    line = json.loads(stream.getvalue())
    if template.startswith("a.b"):
        assert (line["event"], line["c"], line["d"]) == ("a.b", "x", "x")
    else:
        assert (line["event"], line["message"]) == ("log", template % arguments)


def test_a_pair_does_not_hide_what_every_line_has() -> None:
    """A key called level stays apart."""
    stream = io.StringIO()
    logged(stream).warning("a.b level=%s", "x")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["field_level"]) == ("warning", "x")


@given(st.text(), st.booleans())
def test_a_value_never_breaks_a_line(value: str, terminal: bool) -> None:
    """Newlines, terminal escapes, lone surrogates: escaped."""
    stream = Terminal() if terminal else io.StringIO()
    logged(stream).warning("a.b value=%s", value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert terminal or json.loads(text)["value"] == value
