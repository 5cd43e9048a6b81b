# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG text: horizontal bars on a logarithmic scale, with the interval of each; a line over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.stats import Estimate

_WIDTH, _LABEL, _RIGHT, _ROW, _TOP = 860, 330, 90, 24, 56
_STYLE = "text{font:13px sans-serif;fill:#24292f}.t{font-size:15px;font-weight:600}.s{fill:#57606a;font-size:11px}"
_OURS, _OTHERS = "#1f6feb", "#9aa4af"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `ours` has our colour."""

    label: str
    value: Estimate
    ours: bool = False


def _document(height: int, body: Sequence[str], title: str, subtitle: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text class="t" x="12" y="22">{escape(title)}</text><text class="s" x="12" y="40">{escape(subtitle)}</text>'
    )
    return head + "".join(body) + "</svg>\n"


def bars(title: str, subtitle: str, data: Sequence[Bar], unit: str) -> str:
    """A bar for each value above 0."""
    shown = [bar for bar in data if bar.value.median > 0]
    low = 10 ** math.floor(math.log10(min((max(bar.value.low, bar.value.median / 10) for bar in shown), default=1)))
    high = 10 ** math.ceil(math.log10(max((bar.value.high for bar in shown), default=10)))
    span = max(math.log10(high / low), 1)

    def at(value: float) -> float:
        return _LABEL + (_WIDTH - _LABEL - _RIGHT) * min(max(math.log10(max(value, low) / low) / span, 0), 1)

    bottom = _TOP + _ROW * len(shown)
    body = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = at(10.0**power)
        body.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#d0d7de"/>')
        body.append(f'<text class="s" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{10.0**power:,g}</text>')
    for index, bar in enumerate(shown):
        y, end = _TOP + _ROW * index, at(bar.value.median)
        body.append(f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>')
        body.append(
            f'<rect x="{_LABEL}" y="{y + 3}" width="{max(end - _LABEL, 1):.1f}" height="14" fill="{_OURS if bar.ours else _OTHERS}"/>'
        )
        body.append(
            f'<line x1="{at(bar.value.low):.1f}" y1="{y + 10}" x2="{at(bar.value.high):.1f}" y2="{y + 10}" stroke="#24292f"/>'
        )
        body.append(
            f'<text x="{max(end, at(bar.value.high)) + 6:.1f}" y="{y + 14}">{bar.value.median:,.0f} {escape(unit)}</text>'
        )
    return _document(bottom + 24, body, title, subtitle)


def series(title: str, subtitle: str, x: Sequence[float], y: Sequence[float], limit: float) -> str:
    """`y` over `x`, from 0, with a line at `limit`."""
    height, left, top = 260, 60, 56
    width, tall = _WIDTH - left - 30, height - top - 40
    most_x, most_y = max(x, default=1) or 1, max([*y, limit]) * 1.1

    def point(a: float, b: float) -> str:
        return f"{left + width * a / most_x:.1f},{top + tall * (1 - b / most_y):.1f}"

    level = top + tall * (1 - limit / most_y)
    body = [
        f'<line x1="{left}" y1="{level:.1f}" x2="{left + width}" y2="{level:.1f}" stroke="#cf222e" stroke-dasharray="4 3"/>',
        f'<text class="s" x="{left - 6}" y="{level + 4:.1f}" text-anchor="end">{limit:g}</text>',
        f'<text class="s" x="{left - 6}" y="{top + tall}" text-anchor="end">0</text>',
        f'<line x1="{left}" y1="{top + tall}" x2="{left + width}" y2="{top + tall}" stroke="#d0d7de"/>',
        f'<polyline fill="none" stroke="{_OURS}" stroke-width="2" points="{" ".join(map(point, x, y))}"/>',
        f'<text class="s" x="{left + width}" y="{top + tall + 16}" text-anchor="end">{most_x:,.0f} s</text>',
    ]
    return _document(height, body, title, subtitle)
