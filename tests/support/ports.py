# SPDX-License-Identifier: Apache-2.0
"""Loopback ports that stay ours: through a server's death and restart, and against tests that run side by side.

A port is held by a socket that is bound but never listens: connections to it are refused while no server is up, no
other process is given it, and a server that sets SO_REUSEADDR (Go's do) may still listen on it.
Ports lie below the ephemeral range, so no outgoing connection can take one between two starts.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

_LOWEST = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 200


class PortReservation:
    """A number of free TCP ports of 127.0.0.1 (`ports`), held until `close` or the end of `with`."""

    def __init__(self, count: int) -> None:
        """Raises OSError if so many free ports are not found."""
        self._sockets: list[socket.socket] = []
        try:
            while len(self._sockets) < count:
                self._sockets.append(_reserve())
        except BaseException:
            self.close()
            raise
        self.ports: tuple[int, ...] = tuple(held.getsockname()[1] for held in self._sockets)

    def close(self) -> None:
        """Gives the ports back."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reserve() -> socket.socket:
    highest = int(_EPHEMERAL_RANGE.read_text("ascii").split()[0]) - 1
    lowest = min(_LOWEST, highest)
    for _ in range(_ATTEMPTS):
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            # Bound first without SO_REUSEADDR, so that a port another test holds in this way is refused.
            held.bind(("127.0.0.1", random.randint(lowest, highest)))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return held
        held.close()
    raise OSError(f"no free port between {lowest} and {highest} on 127.0.0.1")
