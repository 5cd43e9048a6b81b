# SPDX-License-Identifier: Apache-2.0
"""What probes of one's own read and compare, by programs that pass the values at which either goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import own
from tests.support.generators import compiled
from tests.support.otlp_json import ReceivedSpan
from tests.support.own import argument, function, returned

PROBES_AT_ONCE = 13  # of one run: each has to be compiled
EDGES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
TEXTS = {
    0: "",
    1: "a",
    2: "x" * 127,
    3: "x" * 128,
    4: "x" * 128 + "…",
    5: "/etc/ssl/certs/ca.pem",
    6: "one",
    8: "\\xff\\xfe\\x01 ok é",
    13: "%s%n${jndi:x}`id`;\\n\"'\\",
}


def _signed(bits: int) -> Callable[[int], int]:
    return lambda value: (value & (1 << bits) - 1) - (1 << bits if value >> (bits - 1) & 1 else 0)


def _unsigned(bits: int) -> Callable[[int], int | str]:
    return lambda value: low if (low := value & (1 << bits) - 1) < 1 << 63 else str(low)


NUMBERS: dict[str, Callable[[int], Any]] = {
    **{f"Int{bits}": _signed(bits) for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": _unsigned(bits) for bits in (8, 16, 32, 64)},
    "Size": _unsigned(64),
    "Bool": lambda value: bool(value & 0xFF),
    "Pointer": lambda value: f"{value:#x}",
    "UID": _unsigned(32),
    "GID": _unsigned(32),
    "FD": _signed(32),
}
_RETURNED = ("Int32", "UInt64", "Bool", "Pointer")


def _condition(operator: str, *values: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "operator": operator, "values": list(values)}


def _on_result(operator: str, *values: str) -> dict[str, Any]:
    return {"operator": operator, "values": list(values)}


def _here(kind: str) -> str:
    """Our own namespace, which the traced program shares."""
    return str(Path("/proc/self/ns", kind.lower()).stat().st_ino)


# Name, type of the word, match, which words it is to fire on.
ON_WORDS: list[tuple[str, str, list[dict[str, Any]], Callable[[int], bool]]] = [
    ("gt", "Int32", [{"args": [_condition("GreaterThan", "-1")]}], lambda v: _signed(32)(v) > -1),
    ("gt-unsigned", "UInt64", [{"args": [_condition("GreaterThan", "0x7fffffffffffffff")]}], lambda v: v > 2**63 - 1),
    ("lt", "Int64", [{"args": [_condition("LessThan", "0")]}], lambda v: v >> 63 == 1),
    ("not-in", "UInt8", [{"args": [_condition("NotIn", "255", "0x7f")]}], lambda v: v & 255 not in (255, 127)),
    (
        "range",
        "Int16",
        [{"args": [_condition("InRange", "-32768:-1", "127:128")]}],
        lambda v: _in_ranges(_signed(16)(v)),
    ),
    ("mask", "UInt64", [{"args": [_condition("Mask", "0x8000000000000000")]}], lambda v: v >> 63 == 1),
    (
        "any-of",
        "UInt64",
        [
            {"args": [_condition("Equal", "18446744073709551615"[:19])]},  # 19 digits: no such word
            {"args": [_condition("GreaterThan", "100"), _condition("LessThan", "300")]},
            {"args": [_condition("In", "0", "1")]},
        ],
        lambda v: 100 < v < 300 or v in (0, 1),
    ),
    (
        "with-result",
        "UInt64",
        [
            {"args": [_condition("LessThan", "256")], "returns": [_on_result("GreaterThan", "126")]},
            {"returns": [_on_result("Equal", "4294967296")]},
        ],
        lambda v: 126 < v < 256 or v == 2**32,
    ),
    (
        "rooted",
        "UInt64",
        [{"capabilities": [{"set": "Effective", "operator": "In", "values": ["CAP_SYS_ADMIN"]}]}],
        bool,
    ),
    (
        "not-rooted",
        "UInt64",
        [{"capabilities": [{"set": "Permitted", "operator": "NotIn", "values": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}]}],
        lambda _: False,
    ),
    (
        "here",
        "UInt64",
        [
            {
                "namespaces": [
                    {"type": kind, "operator": "Equal", "values": [_here(kind)]}
                    for kind in ("Pid", "Net", "Mnt", "User")
                ]
            }
        ],
        bool,
    ),
    (
        "elsewhere",
        "UInt64",
        [{"namespaces": [{"type": "User", "operator": "NotIn", "values": [_here("User"), "1"]}]}],
        lambda _: False,
    ),
]


def _in_ranges(value: int) -> bool:
    return -32768 <= value <= -1 or 127 <= value <= 128


# Name, conditions on the text (argument 1), the numbers of the texts it is to fire on.
ALL_TEXTS = set(range(14))
READ = set(TEXTS)
ON_TEXTS: list[tuple[str, dict[str, Any], set[int]]] = [
    ("equal-empty", _condition("Equal", ""), {0}),
    ("equal-longest", _condition("Equal", "x" * 128), {3}),
    ("not-equal", _condition("NotEqual", "a", index=1), ALL_TEXTS - {1}),
    ("in", _condition("In", "one", "a", index=1), {1, 6}),
    ("prefix", _condition("Prefix", "x" * 128), {3, 4}),
    ("prefix-empty", _condition("Prefix", ""), READ),
    ("not-prefix", _condition("NotPrefix", "/etc/", "x"), ALL_TEXTS - {2, 3, 4, 5}),
    ("suffix", _condition("Suffix", ".pem", "x" * 127), {2, 3, 5}),
    ("not-suffix", _condition("NotSuffix", "e"), ALL_TEXTS - {6}),
    ("c-text", _condition("Equal", "%s%n${jndi:x}`id`;\n\"'\\"), {13}),
]

ON_ADDRESSES: list[tuple[str, dict[str, Any], set[int]]] = [
    ("cidr", _condition("DestinationCIDR", "10.0.0.0/8", "fd00::/16"), {0, 1, 2, 8}),
    ("port", _condition("DestinationPort", "65535", "80"), {1, 2}),
    ("not-cidr", _condition("NotDestinationCIDR", "10.0.0.0/8", "fd00::/16"), {3, 4, 5, 6, 7, 9}),
    ("not-port", _condition("NotDestinationPort", "443", "80"), {1, 2, 3, 4, 5, 6, 7, 9}),
    ("family", _condition("Family", "AF_UNIX", "10"), {1, 2, 3, 4}),
    ("one-family", _condition("Family", "AF_INET"), {0, 8}),
]


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ReceivedSpan]]:
    program = compiled("own_values")
    number = argument(0, "Int32")

    def event(name: str, symbol: str, *args: dict[str, Any], **more: Any) -> dict[str, Any]:
        return function(name, program, *args, symbols=(symbol,), mode="Event", **more)

    def matching(name: str, symbol: str, kind: str, condition: dict[str, Any]) -> dict[str, Any]:
        on_second = {**condition, "index": 1}
        return event(f"{symbol}-{name}", symbol, number, argument(1, kind), match=[{"args": [on_second]}])

    probes = [event(f"arg-{kind.lower()}", "word", argument(0, kind)) for kind in NUMBERS]
    probes += [
        function(f"ret-{kind.lower()}", program, symbols=("word",), returns=returned(kind)) for kind in _RETURNED
    ]
    for name, kind, match, _ in ON_WORDS:
        probe = function(
            f"word-{name}", program, argument(0, kind), symbols=("word",), match=match, returns=returned("UInt64")
        )
        probes.append(probe)
    probes += [
        event("text", "text", number, argument(1, "String")),
        event("short", "text", number, argument(1, "String", maxBytes=1)),
        function("returned", program, number, symbols=("text",), returns=returned("String")),
        event("bytes", "bytes", number, argument(1, "Bytes", maxBytes=16)),
        event("vector", "vector", number, argument(1, "IOVec", maxBytes=16)),
        event("address", "address", number, argument(1, "SockAddr")),
        *(matching(name, "text", "String", condition) for name, condition, _ in ON_TEXTS),
        *(matching(name, "address", "SockAddr", condition) for name, condition, _ in ON_ADDRESSES),
    ]
    found: dict[str, list[ReceivedSpan]] = {}
    for at in range(0, len(probes), PROBES_AT_ONCE):
        part = probes[at : at + PROBES_AT_ONCE]
        ran = own.run(tmp_path_factory.mktemp("values"), part, program, f"{_kernel():x}")
        assert ran.status == 0, ran.stderr
        mine = own.by_probe(ran)
        assert ran.balance["exported"] == sum(map(len, mine.values()))
        assert ran.balance["dropped"] == {}
        found |= {probe["name"]: mine[probe["name"]] for probe in part}
    return found


def _kernel() -> int:
    """Where the kernel's own code begins: memory that is there, and none of a program's business."""
    with Path("/proc/kallsyms").open() as lines:
        return next(int(line.split()[0], 16) for line in lines if line.split()[2] == "_text")


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers(kind: str, spans: dict[str, list[ReceivedSpan]]) -> None:
    """Cut to their size, with their sign; what OTLP's 64 bits cannot hold is its decimal text."""
    assert own.values(spans[f"arg-{kind.lower()}"], "a0") == [NUMBERS[kind](value) for value in EDGES]


@pytest.mark.parametrize("kind", _RETURNED)
def test_results(kind: str, spans: dict[str, list[ReceivedSpan]]) -> None:
    """The same of what functions return."""
    assert own.values(spans[f"ret-{kind.lower()}"], "r") == [NUMBERS[kind](value) for value in EDGES]


@pytest.mark.parametrize(("name", "holds"), [(name, holds) for name, _, _, holds in ON_WORDS])
def test_conditions_on_numbers(name: str, holds: Callable[[int], bool], spans: dict[str, list[ReceivedSpan]]) -> None:
    """Fires on these words and on no other."""
    wanted = EDGES if name in ("rooted", "here") else [value for value in EDGES if holds(value)]
    assert own.values(spans[f"word-{name}"], "r") == [_unsigned(64)(value) for value in wanted]


@pytest.mark.parametrize("probe", ["text", "returned"])
def test_texts(probe: str, spans: dict[str, list[ReceivedSpan]]) -> None:
    """Empty, just fitting, too long, at a page's end; of nothing, of the kernel and of what is not in memory: none."""
    attribute = "a1" if probe == "text" else "r"
    assert own.values(spans[probe], "a0", attribute) == [(i, TEXTS.get(i)) for i in range(14)]


def test_a_short_bound(spans: dict[str, list[ReceivedSpan]]) -> None:
    """One byte is read, and it is said where there are more."""
    short = {i: text if len(text) < 2 else text[0] + "…" for i, text in TEXTS.items()}
    short[8], short[13] = "\\xff…", "%…"
    assert own.values(spans["short"], "a0", "a1") == [(i, short.get(i, "o…" if i == 7 else None)) for i in range(14)]


def test_bytes(spans: dict[str, list[ReceivedSpan]]) -> None:
    """All of them or none, none of the kernel's."""
    found = own.values(spans["bytes"], "a1")
    assert found == ["0123456789abcdef", "0123456\\x0089abcdef", "eeeeeeeeeeeeone!", None, None, None]


def test_vectors(spans: dict[str, list[ReceivedSpan]]) -> None:
    """The first part of a vector, that leads nowhere but into the process."""
    assert own.values(spans["vector"], "a1") == ["vectored", "", "x" * 16 + "…", None, None]


def test_addresses(spans: dict[str, list[ReceivedSpan]]) -> None:
    """IPv4, IPv6, a path without an end, and what is none."""
    found = own.values(spans["address"], "a1.address", "a1.port", "a1.family")
    assert found[:3] == [("10.1.2.3", 443, None), ("fd00::1:2", 65535, None), ("10.9.8.7", 65535, None)]
    assert found[3][0] is not None
    assert str(found[3][0]).startswith("u" * 108)
    assert found[5] == (None, None, "AF_VSOCK")
    assert found[6] == found[7] == found[9] == (None, None, None)
    assert found[8] == ("10.1.2.3", 443, None)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *((f"text-{name}", wanted) for name, _, wanted in ON_TEXTS),
        *((f"address-{name}", wanted) for name, _, wanted in ON_ADDRESSES),
    ],
)
def test_conditions(name: str, wanted: set[int], spans: dict[str, list[ReceivedSpan]]) -> None:
    """Fires on these and on no other; on what cannot be read only where it is negative."""
    assert own.values(spans[name], "a0") == sorted(wanted)
