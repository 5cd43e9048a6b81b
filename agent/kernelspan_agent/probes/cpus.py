# SPDX-License-Identifier: Apache-2.0
"""How many CPUs there can be: a per-CPU map has a value for each."""

from __future__ import annotations

from pathlib import Path


def possible_cpus(sysfs: Path = Path("/sys")) -> int:
    """How many values a per-CPU map has for one key."""
    last = (sysfs / "devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1
