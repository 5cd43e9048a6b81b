# SPDX-License-Identifier: Apache-2.0
"""The agent's log, configured in one place: an event's name and key=value pairs, never what a traced program passed.

A call reads `log.warning("export.failed output=%s message=%s", output, message)`. On a terminal that is what is shown,
else one JSON object a line with the keys time, level, logger, event and those of the pairs. A message of another form
(a library's) is shown whole, as the key message of the event `log`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TextIO

LEVELS = ("debug", "info", "warning", "error")
VARIABLE = "KERNELSPAN_LOG"
_NAME = "kernelspan_agent"
_PAIR = re.compile(r"(\w+)=%[sdrg]")
_EVENT = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
_OWN = ("time", "level", "logger", "event")


def configure(level: str, stream: TextIO) -> None:
    """Sends the agent's log to `stream`, once however often it is called; other loggers are left alone."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter() if stream.isatty() else JsonFormatter())
    logger = logging.getLogger(_NAME)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def fields_of(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Event and pairs of a record; ("log", {"message": …}) where it is not made of them."""
    template, *rest = str(record.msg).split(" ")
    arguments = list(record.args) if isinstance(record.args, tuple) else []
    pairs = [_PAIR.fullmatch(part) for part in rest]
    event = str(arguments.pop(0)) if template == "%s" and arguments else template
    names = [pair[1] for pair in pairs if pair]
    if not _EVENT.fullmatch(event) or len(names) != len(rest) or len(names) != len(arguments):
        return "log", {"message": record.getMessage()}
    return event, dict(zip(names, arguments, strict=True))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event, pairs = fields_of(record)
        found: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        for name, value in pairs.items():
            plain = value if isinstance(value, (int, float, str, type(None))) else str(value)
            found[f"field_{name}" if name in _OWN else name] = plain
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found)


class PlainFormatter(logging.Formatter):
    """One line for people; control characters of a value are escaped, those of a traceback are its line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback below it."""
        event, pairs = fields_of(record)
        words = [f"{name}={_quoted(str(value))}" for name, value in pairs.items()]
        line = " ".join([f"kernelspan: {record.levelname.lower()}", event, *words])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(text: str) -> str:
    return text if text and text.isprintable() and " " not in text and '"' not in text else json.dumps(text)
