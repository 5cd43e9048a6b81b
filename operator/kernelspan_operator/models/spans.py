# SPDX-License-Identifier: Apache-2.0
"""How the operator's own work becomes spans, if somebody asked for them: else nothing comes of it.

The services say what was done from when to when; `services.telemetry` makes spans of it. So no service knows an SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Spans(Protocol):
    """Takes a span that is over; times are nanoseconds since the epoch. What it gives is a parent for others."""

    def __call__(
        self, name: str, start_ns: int, end_ns: int, attributes: Mapping[str, str | int], parent: object = None
    ) -> object:
        """See above."""


def no_spans(
    name: str, start_ns: int, end_ns: int, attributes: Mapping[str, str | int], parent: object = None
) -> object:
    """Makes none."""
    del name, start_ns, end_ns, attributes, parent
    return None
