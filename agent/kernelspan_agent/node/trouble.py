# SPDX-License-Identifier: Apache-2.0
"""Why a profile, or a part of it, is not in effect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """`reason`: a status reason. `message`: what to do."""

    reason: str
    message: str
