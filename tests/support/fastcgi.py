# SPDX-License-Identifier: Apache-2.0
"""A FastCGI client as a web server has one: requests over one connection each, answers whole.

The protocol: FastCGI Specification 1.0, https://fastcgi-archives.github.io/FastCGI_Specification.html.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct(">BBHHBx")  # version, type, request, content length, padding length
_BEGIN, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7
_RESPONDER = struct.pack(">HB5x", 1, 0)
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the body, and what was complained of."""

    headers: str
    body: bytes
    errors: str


def request(unix_socket: Path, script: str, query: str, more: Mapping[str, str] | None = None) -> Answer:
    """A GET of a script, by the name it has for the server behind the socket. Raises OSError."""
    parameters = {
        "SCRIPT_FILENAME": script,
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1",
        **(more or {}),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(unix_socket))
        names = b"".join(_pair(name, value) for name, value in parameters.items())
        connection.sendall(_record(_BEGIN, _RESPONDER) + _record(_PARAMS, names) + _record(_PARAMS) + _record(_STDIN))
        parts: dict[int, bytes] = {_STDOUT: b"", _STDERR: b""}
        while True:
            _, kind, _, length, padding = _RECORD.unpack(_exactly(connection, _RECORD.size))
            content = _exactly(connection, length + padding)[:length]
            if kind == _END:
                break
            parts[kind] += content
    headers, _, body = parts[_STDOUT].partition(b"\r\n\r\n")
    return Answer(headers.decode("latin-1"), body, parts[_STDERR].decode(errors="replace"))


def _record(kind: int, content: bytes = b"") -> bytes:
    return _RECORD.pack(1, kind, 1, len(content), 0) + content


def _pair(name: str, value: str) -> bytes:
    parts = [each.encode() for each in (name, value)]
    lengths = (bytes([len(part)]) if len(part) < 128 else struct.pack(">I", len(part) | 1 << 31) for part in parts)
    return b"".join(lengths) + b"".join(parts)


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionError(f"the server closed the connection after {len(found)} of {count} bytes")
        found += part
    return found
