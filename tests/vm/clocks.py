# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm.clocks: asks for the state of a file, then sets the wall clock, forwards and far back; says as JSON
what it did when, by the clock of the moment. For a machine that nobody else uses.
"""

from __future__ import annotations

import json
import os
import time

STEPS_SECONDS = (0, 3600, -86_400)
SETTLE_SECONDS = 8.0  # emulated: longer than an agent takes to see it


def main() -> None:
    """Everything."""
    said = {}
    for number, step in enumerate(STEPS_SECONDS):
        time.clock_settime(time.CLOCK_REALTIME, time.time() + step)
        time.sleep(SETTLE_SECONDS)
        said[f"/step-{number}"] = time.time()
        os.path.exists(f"/step-{number}")  # noqa: PTH110 - one call
        time.sleep(SETTLE_SECONDS)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
