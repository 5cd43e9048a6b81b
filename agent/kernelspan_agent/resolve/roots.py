# SPDX-License-Identifier: Apache-2.0
"""The root directory of a process, held open: whose code a file is can be asked when the process has ended.

What is below another mount of the process's own mount namespace goes with the namespace; what lies on its root stays.
"""

from __future__ import annotations

import contextlib
import os


class HeldRoot:
    """A directory that is held as long as this object is. `path` leads to it, in this process only."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        """Raises OSError where the process has ended."""
        self._fd = -1
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{self._fd}"

    def __del__(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)


def hold_root(process_path: str) -> HeldRoot | None:
    """The root of the process with this folder under /proc; None where there is no such process any more."""
    try:
        return HeldRoot(f"{process_path}/root")
    except OSError:
        return None
