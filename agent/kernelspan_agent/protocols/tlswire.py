# SPDX-License-Identifier: Apache-2.0
"""What the plain beginning of TLS says: the client's hello, the server's, an alert (RFC 8446; RFC 5246 before it).

All that follows is encrypted, in TLS 1.3 the server's choice of a protocol too. Nothing is decrypted, ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 5  # of a record: its type, a version, its length
MAX_BYTES = 16 * 1024  # of one hello that are kept
_HANDSHAKE, _ALERT = 22, 21
_FATAL = b"\x02"  # an alert's level
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_RANDOM_BYTES = 32
_SERVER_NAME, _ALPN, _VERSIONS = 0, 16, 43  # extensions: RFC 6066, RFC 7301, RFC 8446
_NAMES = {0x0300: "ssl 3", 0x0301: "tls 1.0", 0x0302: "tls 1.1", 0x0303: "tls 1.2", 0x0304: "tls 1.3"}
_MAX_NAME, _MAX_PROTOCOLS = 255, 16
_FATAL_ALERTS = {
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`random`: no other connection has it. `server_name`: empty: none, or not seen. `protocols`: that it offers, by ALPN."""

    random: bytes
    server_name: str
    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerHello:
    """`version`: as `tls 1.3`; empty: one that is not known. `protocol`: that was chosen; empty: none, or not seen."""

    version: str
    protocol: str


class Hellos:
    """The handshake's first message of one direction, put together from records and calls."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """What follows."""
        self._bytes += data[: MAX_BYTES - len(self._bytes)]

    def _records(self) -> Iterator[tuple[int, bytes]]:
        data, at = self._bytes, 0
        while at + HEADER_BYTES <= len(data):
            length = int.from_bytes(data[at + 3 : at + HEADER_BYTES], "big")
            yield data[at], bytes(data[at + HEADER_BYTES : at + HEADER_BYTES + length])
            at += HEADER_BYTES + length

    @property
    def alert(self) -> str:
        """The fatal alert that it is instead; empty: none."""
        for kind, data in self._records():
            if kind == _ALERT and data[:1] == _FATAL and len(data) > 1:
                return _FATAL_ALERTS.get(data[1], "_OTHER")
            if kind != _ALERT:
                break
        return ""

    def message(self) -> tuple[bytes, bool]:
        """The handshake's bytes so far, its type and length first; and whether it is all there."""
        found = bytearray()
        for kind, data in self._records():
            if kind == _HANDSHAKE:
                found += data
            elif kind != _ALERT:  # a warning may come before a hello
                break
        whole = 4 + int.from_bytes(found[1:4], "big")
        return bytes(found[:whole]), len(found) >= max(whole, 4)


def begins(data: bytes, moved: int) -> bool:
    """Whether these can be the first bytes of a client's hello; a record's header may be read alone."""
    if len(data) < HEADER_BYTES or data[0] != _HANDSHAKE or data[1] != 3:
        return False
    return moved == HEADER_BYTES or (len(data) > HEADER_BYTES and data[HEADER_BYTES] == _CLIENT_HELLO)


def client_hello(message: bytes) -> ClientHello | None:
    """As far as it was seen; None: it is none."""
    if len(message) < 6 + _RANDOM_BYTES or message[0] != _CLIENT_HELLO:
        return None
    at = 6 + _RANDOM_BYTES
    name, protocols = "", tuple[str, ...]()
    at = _skip(message, at, 1)  # the session
    at = _skip(message, at, 2)  # ciphers
    at = _skip(message, at, 1)  # compression
    for kind, value in _extensions(message, at):
        if kind == _SERVER_NAME:
            name = _name(value)
        elif kind == _ALPN:
            protocols = _protocols(value)
    return ClientHello(message[6 : 6 + _RANDOM_BYTES], name, protocols)


def server_hello(message: bytes) -> ServerHello | None:
    """As far as it was seen; None: it is none."""
    if len(message) < 6 + _RANDOM_BYTES or message[0] != _SERVER_HELLO:
        return None
    version, protocol = int.from_bytes(message[4:6], "big"), ""
    at = _skip(message, 6 + _RANDOM_BYTES, 1) + 3  # the session; a cipher and a compression
    for kind, value in _extensions(message, at):
        if kind == _VERSIONS and len(value) == 2:
            version = int.from_bytes(value, "big")
        elif kind == _ALPN:
            protocol = "".join(_protocols(value)[:1])
    return ServerHello(_NAMES.get(version, ""), protocol)


def _skip(data: bytes, at: int, width: int) -> int:
    return at + width + int.from_bytes(data[at : at + width], "big")


def _extensions(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Those that are all there."""
    end = min(len(data), _skip(data, at, 2))
    at += 2
    while at + 4 <= end:
        kind, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        at += 4 + length
        if at <= end:
            yield kind, data[at - length : at]


def _name(value: bytes) -> str:
    """A host's name: of the list's first entry, which there is one of."""
    if len(value) < 5 or value[2] != 0:
        return ""
    return _text(value[5 : 5 + int.from_bytes(value[3:5], "big")])


def _protocols(value: bytes) -> tuple[str, ...]:
    found, at = list[str](), 2
    while at < len(value) and len(found) < _MAX_PROTOCOLS:
        length = value[at]
        found.append(_text(value[at + 1 : at + 1 + length]))
        at += 1 + length
    return tuple(each for each in found if each)


def _text(value: bytes) -> str:
    """Printable ASCII, or nothing: names of hosts and protocols are no more, and GREASE (RFC 8701) is not."""
    text = value[:_MAX_NAME].decode("ascii", "replace")
    return text if all("!" <= letter <= "~" for letter in text) else ""
