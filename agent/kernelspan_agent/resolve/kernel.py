# SPDX-License-Identifier: Apache-2.0
"""What the stages behind the ring need of the kernel's side: a session offers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from kernelspan_agent.runtimes.registry import DetectedRuntime

EXECUTABLE = (1 << 64) - 1  # in place of an offset


@dataclass(frozen=True, slots=True)
class Image:
    """A file that holds a runtime. `delta`: from the program's first code, or the mapping at `offset`, to the runtime."""

    inode: int
    size_bytes: int
    mtime: int
    device: int  # as the kernel counts: major << 20 | minor
    delta: int
    offset: int


class Kernel(Protocol):
    """What the kernel's side is told of processes, and asked."""

    def process_start(self, tgid: int) -> int | None:
        """Which image of a process is traced now; None: none."""

    def traced(self) -> set[int]:
        """The processes that are traced now, by tgid."""

    def set_runtime(
        self, tgid: int, start_ns: int, found: DetectedRuntime | None, flags: int, words: tuple[int, ...] = ()
    ) -> None:
        """What runs the image of `tgid` that began at `start_ns`; None: nothing that can be walked."""

    def walks(self, number: int) -> bool:
        """Whether processes of a runtime can be walked yet; `walker_came` is called when they can be."""

    def layout_id(self, layout: np.ndarray) -> int | None:
        """The number by which the kernel's records name a layout."""

    def has_table(self, name: str) -> bool:
        """See registry.Tables."""

    def fill_table(self, name: str, first: int, values: np.ndarray) -> None:
        """The same."""

    def know_image(self, image: Image, *, number: int, layout: np.ndarray) -> None:
        """A file that holds a runtime, to be recognised in the next process."""
