# SPDX-License-Identifier: Apache-2.0
"""What is held on to of programs that were seen."""

from __future__ import annotations

import numpy as np

from kernelspan_agent.resolve.images import MAX_IMAGES, Image, KnownImages
from kernelspan_agent.runtimes.registry import DetectedRuntime


def test_a_node_that_builds_programs_all_the_time() -> None:
    """Of so many programs the newest are known: what is learnt of a file may hold it open."""
    known = KnownImages()
    found = DetectedRuntime("go", 3, "gc", "go1.26.1", "/app", np.zeros(1), 0)
    images = [Image(inode, 1, 2, 3, 0, 0) for inode in range(3 * MAX_IMAGES)]
    for image in images:
        known[image] = found
    assert list(known) == images[-MAX_IMAGES:]
