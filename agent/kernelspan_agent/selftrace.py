# SPDX-License-Identifier: Apache-2.0
"""Where the agent's own work becomes spans, if somebody asked for them: else every `span` is nothing at all.

The stages call `span`; `control.telemetry` decides whether anything comes of it. So no stage imports an SDK.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Start = Callable[[str, dict[str, str | int]], AbstractContextManager[object]]


class _Switch(threading.local):
    """By thread: whether what it does now is left out."""

    quiet = False


_switch = _Switch()
_start: list[Start] = []


def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
    """A span of the agent's own around a block; an exception makes it an error and goes on."""
    if not _start or _switch.quiet:
        return contextlib.nullcontext()
    return _start[-1](name, attributes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What this thread does inside makes no spans: else the sending of spans would be sent for ever."""
    before, _switch.quiet = _switch.quiet, True
    try:
        yield
    finally:
        _switch.quiet = before


def install(start: Start) -> Callable[[], None]:
    """Makes spans by `start` from now on; gives what ends it."""
    _start.append(start)
    return lambda: _start.remove(start)
