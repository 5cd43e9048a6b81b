# SPDX-License-Identifier: Apache-2.0
"""What is held on to of programs that were seen."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np

from kernelspan_agent.resolve.images import MAX_IMAGES, KnownImages
from kernelspan_agent.resolve.kernel import Image
from kernelspan_agent.runtimes.registry import DetectedRuntime


def test_a_node_that_builds_programs_all_the_time() -> None:
    """Of so many programs the newest are known: what is learnt of a file may hold it open."""
    known = KnownImages()
    found = DetectedRuntime("go", 3, "gc", "go1.26.1", "/app", np.zeros(1), 0)
    images = [Image(inode, 1, 2, 3, 0, 0) for inode in range(3 * MAX_IMAGES)]
    for image in images:
        known[image] = found
    assert list(known) == images[-MAX_IMAGES:]


def test_what_ended_before_anybody_looked_is_known_by_its_layout() -> None:
    """From the moment on when its walker is there; of builds that share a layout only what is true of both is said."""
    kernel = Mock()
    kernel.walks.return_value = False
    kernel.layout_id.return_value = 4
    known = KnownImages()
    images = {version: Image(inode, 1, 2, 3, 0, 0) for inode, version in enumerate(("8.2.1", "8.2.29"))}
    for version, image in images.items():
        known.add(image, DetectedRuntime("php", 2, "PHP", version, "/php", np.zeros(1), 0), kernel)
    assert known.by_layout == {}
    kernel.walks.return_value = True
    known.tell(2, kernel)
    assert kernel.know_image.call_count == 2
    assert (known.by_layout[4].implementation, known.by_layout[4].version) == ("PHP", "8.2")
    known.keep_layout(known[images["8.2.29"]], kernel)
    assert known.by_layout[4].version == "8.2"
