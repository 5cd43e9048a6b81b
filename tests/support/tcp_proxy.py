# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback that a test can make silent, cut, or shut."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


class TcpProxy:
    """Forwards connections to a port of 127.0.0.1; use with `with`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._all: list[socket.socket] = []
        self._deaf: set[socket.socket] = set()  # nothing more is forwarded from these, and they stay open
        self._shut = False
        self._workers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many are open, both sides counted as one."""
        with self._lock:
            return len(self._open) // 2

    def silence(self) -> None:
        """What is open now stays open for ever and forwards nothing more, in either direction; new ones work."""
        with self._lock:
            self._deaf.update(self._open)

    def cut(self) -> None:
        """What is open now ends."""
        with self._lock:
            for one in self._open:
                _end(one)

    def shut(self, shut: bool) -> None:
        """Whether new connections end at once; what is open is cut with that."""
        self._shut = shut
        if shut:
            self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut = True
        _end(self._listener)
        self._listener.close()
        self._thread.join()
        for one in self._all:
            _end(one)
        for worker in self._workers:
            worker.join()
        for one in self._all:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target)) if not self._shut else None
            except OSError:
                far = None
            if far is None:
                near.close()
                continue
            with self._lock:
                self._open += [near, far]
                self._all += [near, far]
            for source, sink in ((near, far), (far, near)):
                worker = threading.Thread(target=self._forward, args=(source, sink), daemon=True)
                self._workers.append(worker)
                worker.start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if source not in self._deaf:
                    sink.sendall(data)
        if source in self._deaf and not self._shut:
            return  # the other side must not notice
        for one in (source, sink):
            _end(one)
        with self._lock:
            self._open = [one for one in self._open if one is not source]


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
