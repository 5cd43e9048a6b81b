# SPDX-License-Identifier: Apache-2.0
"""Messages of DNS as bytes (RFC 1035, 4.1), of which the end may not have been seen.

A reader of our own: of a message three things are wanted, and the libraries there are make an object of every record
(dnspython: 8 MB, and five to ten times the time). Names are read in at most as many steps as they have labels, and what a message says of
its own size is never believed.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

HEAD = struct.Struct(">HHHHHH")
_TYPE_CLASS = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_ANSWERS, _TRUNCATED, _OPCODE, _RCODE = 0x8000, 0x0200, 0x7800, 0x000F
_POINTER, _RESERVED = 0xC0, 0xC0
MAX_NAME = 255  # bytes of a name, its root included: RFC 1035, 2.3.4
MAX_RECORDS = 512  # of one message that are looked at; more do not fit into what is copied
MAX_ADDRESSES = 64  # that are told; of more none
_IN, _A, _AAAA, _OPT = 1, 1, 28, 41
_SIZES = {_A: 4, _AAAA: 16}
_ESCAPED = {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 46: "\\.", 92: "\\\\"}

# IANA's registry "Domain Name System (DNS) Parameters": types that are asked for, and response codes.
_TYPES = """
    A 1 NS 2 CNAME 5 SOA 6 PTR 12 HINFO 13 MX 15 TXT 16 RP 17 AFSDB 18 SIG 24 KEY 25 AAAA 28 LOC 29 SRV 33 NAPTR
    35 KX 36 CERT 37 DNAME 39 APL 42 DS 43 SSHFP 44 IPSECKEY 45 RRSIG 46 NSEC 47 DNSKEY 48 DHCID 49 NSEC3 50
    NSEC3PARAM 51 TLSA 52 SMIMEA 53 HIP 55 CDS 59 CDNSKEY 60 OPENPGPKEY 61 CSYNC 62 ZONEMD 63 SVCB 64 HTTPS 65 SPF
    99 EUI48 108 EUI64 109 TKEY 249 TSIG 250 IXFR 251 AXFR 252 ANY 255 URI 256 CAA 257
"""
_RCODES = """
    NOERROR 0 FORMERR 1 SERVFAIL 2 NXDOMAIN 3 NOTIMP 4 REFUSED 5 YXDOMAIN 6 YXRRSET 7 NXRRSET 8 NOTAUTH 9 NOTZONE
    10 DSOTYPENI 11 BADVERS 16 BADKEY 17 BADTIME 18 BADMODE 19 BADNAME 20 BADALG 21 BADTRUNC 22 BADCOOKIE 23
"""


def _by_number(table: str) -> dict[int, str]:
    words = table.split()
    return {int(number): name for name, number in zip(words[::2], words[1::2], strict=True)}


TYPES, RCODES = _by_number(_TYPES), _by_number(_RCODES)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `name`: bytes of its labels, each behind its length, in small letters."""

    name: bytes
    type: int
    cls: int


@dataclass(frozen=True, slots=True)
class Message:
    """One that asks one thing, or answers it. `question` None: an answer that does not repeat it.

    `text`: the name as it was sent. `addresses`: all those that it answers with; None: not all are known.
    """

    number: int
    is_answer: bool
    question: Question | None
    text: str
    rcode: int = 0
    is_truncated: bool = False
    addresses: tuple[str, ...] | None = None


def parse(data: bytes, moved: int) -> Message | None:
    """A message of `moved` bytes, the first of which were seen; None: none that asks one thing by the opcode QUERY.

    What is behind the question is only read as far as it is what it should be.
    """
    if len(data) < HEAD.size or len(data) > moved:
        return None
    number, flags, questions, answers, authorities, additional = HEAD.unpack_from(data)
    is_answer = bool(flags & _ANSWERS)
    if flags & _OPCODE or questions != 1:
        is_bare = is_answer and not flags & _OPCODE and questions == 0 and moved == HEAD.size
        return Message(number, True, None, "", flags & _RCODE) if is_bare else None
    found = _name(data, HEAD.size)
    if found is None or found[1] + _TYPE_CLASS.size > len(data):
        return None
    labels, at = found
    question = Question(_packed(labels).lower(), *_TYPE_CLASS.unpack_from(data, at))
    at += _TYPE_CLASS.size
    if not is_answer:
        return Message(number, False, question, _text(labels))
    high, addresses = _records(data, at, answers, authorities + additional)
    rcode, is_truncated = high << 4 | flags & _RCODE, bool(flags & _TRUNCATED)
    return Message(number, True, question, _text(labels), rcode, is_truncated, None if is_truncated else addresses)


def type_name(number: int) -> str:
    """As one writes it; RFC 3597 for those without a name."""
    return TYPES.get(number) or f"TYPE{number}"


def rcode_name(number: int) -> str:
    """As one writes it."""
    return RCODES.get(number) or f"RCODE{number}"


def _records(data: bytes, at: int, answers: int, others: int) -> tuple[int, tuple[str, ...] | None]:
    """The upper bits of the response code, which OPT has (RFC 6891, 6.1.3), and the addresses among the answers."""
    addresses: list[str] = []
    is_whole = answers == 0
    for index in range(min(answers + others, MAX_RECORDS)):
        after = _skip(data, at)
        if after is None or after + _RECORD.size > len(data):
            break
        kind, cls, ttl, size = _RECORD.unpack_from(data, after)
        at = after + _RECORD.size + size
        if at > len(data):
            break
        if index < answers:
            is_whole = index + 1 == answers
            if cls == _IN and size == _SIZES.get(kind):
                addresses.append(str(ipaddress.ip_address(data[at - size : at])))
        elif kind == _OPT:
            return ttl >> 24, _told(addresses)
    return 0, _told(addresses) if is_whole else None


def _told(addresses: list[str]) -> tuple[str, ...] | None:
    return tuple(addresses) if len(addresses) <= MAX_ADDRESSES else None


def _name(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The labels of a question's name, which nothing comes before that it could point to, and where it ends."""
    labels: list[bytes] = []
    begin = at
    while at < len(data):
        length = data[at]
        if length & _RESERVED or at + 1 + length > len(data) or at + 1 + length - begin > MAX_NAME:
            return None
        at += 1 + length
        if not length:
            return labels, at
        labels.append(data[at - length : at])
    return None


def _skip(data: bytes, at: int) -> int | None:
    """Where a record's name ends; a pointer ends it, wherever that leads to."""
    begin = at
    while at < len(data) and at - begin <= MAX_NAME:
        length = data[at]
        if length & _POINTER == _POINTER:
            return at + 2
        if length & _RESERVED:
            return None
        at += 1 + length
        if not length:
            return at
    return None


def _packed(labels: list[bytes]) -> bytes:
    return b"".join(bytes([len(each)]) + each for each in labels)


def _text(labels: list[bytes]) -> str:
    """As one writes it, without the dot at its end; what is not printable by number, as OpenTelemetry has it."""
    return ".".join("".join(map(_character, each)) for each in labels) or "."


def _character(byte: int) -> str:
    return _ESCAPED.get(byte) or (chr(byte) if 32 <= byte <= 126 else f"\\{byte:03d}")
