# SPDX-License-Identifier: Apache-2.0
"""The kernel's table of the processes that it traces: of each the image that it is, for whom it is traced, and its pod."""

from __future__ import annotations

import contextlib
import struct

from kernelspan_agent.probes import bpf

_VALUE = struct.Struct("<QII")  # struct ks_proc
_KEY = struct.Struct("<I")


class Procs:
    """The map `ks_procs`. Threads may share one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def trace(self, tgid: int, start_ns: int, match_class: int, pod: int = 0) -> None:
        """Traces a process from now on; `start_ns` (CLOCK_MONOTONIC) names its image. Class 0 wants nothing of it.

        `pod`: a number that its pod's processes have in common; its children inherit it.
        """
        bpf.map_update(self._fd, _KEY.pack(tgid), _VALUE.pack(start_ns, match_class, pod))

    def assign(self, tgid: int, start_ns: int, match_class: int) -> None:
        """Changes the class of an image that is traced. Of one that has ended, or is another by now, nothing changes.

        Not in one step: an exec in the midst of it is undone, and set right by the call that follows when it is told of.
        """
        found = self._get(tgid)
        if found is None:
            return
        start, now, pod = found
        if start <= start_ns and (start, now) != (start_ns, match_class):
            with contextlib.suppress(FileNotFoundError):  # it has ended
                bpf.map_update(self._fd, _KEY.pack(tgid), _VALUE.pack(start_ns, match_class, pod), bpf.EXIST)

    def leave(self, tgid: int, start_ns: int) -> None:
        """Traces an image no more, of which the kernel will not say that it has ended: it had before."""
        if self.start(tgid) == start_ns:
            bpf.map_delete(self._fd, _KEY.pack(tgid))

    def all(self) -> set[int]:
        """The processes that are traced now, by tgid."""
        return {_KEY.unpack(key)[0] for key in bpf.map_keys(self._fd, _KEY.size)}

    def classes(self) -> set[int]:
        """The classes of which there is a process now."""
        return {found[1] for tgid in self.all() if (found := self._get(tgid)) is not None}

    def start(self, tgid: int) -> int | None:
        """Which image of a process is traced now; None: none."""
        found = self._get(tgid)
        return found[0] if found else None

    def match_class(self, tgid: int) -> int:
        """The class of a process; 0: none, or it is not traced."""
        found = self._get(tgid)
        return found[1] if found else 0

    def _get(self, tgid: int) -> tuple[int, int, int] | None:
        value = bpf.map_lookup(self._fd, _KEY.pack(tgid), _VALUE.size)
        return _VALUE.unpack(value) if value is not None else None
