# SPDX-License-Identifier: Apache-2.0
"""Colours, where a terminal wants them: NO_COLOR and TERM=dumb are respected, a pipe gets plain text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import click

_COLORS = {"ok": "green", "no": "red", "unknown": "yellow", "untried": "yellow"}
_STATE_WIDTH = 7


@dataclass(frozen=True, slots=True)
class Painter:
    """Paints, or leaves alone."""

    color: bool

    @classmethod
    def of_stdout(cls, environ: Mapping[str, str]) -> Painter:
        """By what standard output is."""
        return cls(sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")

    def _style(self, text: str, name: str = "", *, dim: bool = False) -> str:
        return click.style(text, fg=name or None, dim=dim or None) if self.color else text

    def good(self, text: str) -> str:
        """Something that is as it should be."""
        return self._style(text, "green")

    def bad(self, text: str) -> str:
        """Something that is not."""
        return self._style(text, "red")

    def faint(self, text: str) -> str:
        """Something beside the point."""
        return self._style(text, dim=True)

    def state(self, state: str, required: bool) -> str:
        """ok, no, unknown, untried, each as wide as the others; what is not required is no alarm."""
        name = _COLORS.get(state, "")
        return self._style(f"{state:<{_STATE_WIDTH}}", "yellow" if state == "no" and not required else name)
