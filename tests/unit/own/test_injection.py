# SPDX-License-Identifier: Apache-2.0
"""Tricks in every string of a probe: each is refused, or gets into C as numbers alone, or not at all."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.own.codegen import Generated
from kernelspan_agent.probes.own.prepare import checked
from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import load
from kernelspan_api.schema import members, struct_type, unwrap
from kernelspan_api.userprobes import UserProbe
from tests.support.own_generation import generated, places_of

TRICKS = [
    '"; bpf_probe_write_user(ctx, ctx, 8); //',
    "*/ } int evil(void *ctx) { return 0; } /*",
    '#include "/etc/shadow"',
    "\\\n#define KS_OWN_RECORD 1",
    "a\n#error x",
    "??/\n??=define x",
    "'\"; DROP",
    "$(touch /tmp/x)`id`;&&|",
    "%n%s%p{0.__class__}{config}",
    "${jndi:ldap://x}",
    "../../../../etc/passwd",
    "/proc/self/cwd/../x",
    "//x/./../y",
    "\u202e\u2028é\ufeff",
    "x\0y",
    "-1) || (1",
    "0x1f); (",
    "1e9",
    "__builtin_trap()",
    "\x1b[31m",
]
_BASE: dict[str, Any] = {
    "name": "probe",
    "span": {"name": "shop", "attributes": {"team": "shop"}},
    "args": [
        {"index": 0, "type": "Int64", "attribute": "number"},
        {"index": 1, "type": "String", "attribute": "text"},
    ],
    "returns": {"type": "Int64", "attribute": "result"},
    "match": [
        {
            "args": [
                {"index": 0, "operator": "Equal", "values": ["5"]},
                {"index": 1, "operator": "Equal", "values": ["text"]},
            ],
            "returns": [{"operator": "Equal", "values": ["5"]}],
            "binaries": [{"operator": "Equal", "values": ["/usr/bin/shop"]}],
            "capabilities": [{"set": "Effective", "operator": "In", "values": ["CAP_BPF"]}],
            "namespaces": [{"type": "Net", "operator": "Equal", "values": ["Host"]}],
        }
    ],
    "errorWhen": {"operator": "Equal", "values": ["5"]},
}
_ENDS: dict[str, dict[str, Any]] = {
    "kprobe": {"call": "tcp_sendmsg"},
    "tracepoint": {"category": "sched", "event": "sched_switch", "exitEvent": "sched_wakeup"},
    "uprobe": {"path": "/usr/bin/shop", "symbols": ["order"]},
    "usdt": {"path": "/usr/bin/shop", "provider": "shop", "probe": "order", "endProbe": "done"},
}
# Of strings that only one kind of probe has, or that the others replace: what the probe has besides.
_ELSEWHERE: dict[str, tuple[str, dict[str, Any]]] = {
    "args[].field": ("tracepoint", {"args": [{"field": "name", "type": "String", "attribute": "text"}], "match": []}),
    "args[].resolve": (
        "kprobe",
        {"args": [{"index": 0, "type": "Int64", "attribute": "n", "resolve": "sk"}], "match": []},
    ),
}


def strings(cls: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    """The paths of all free texts below a type."""
    for field in struct_type(cls).fields:
        yield from _strings_of(field.type, f"{path}.{field.encode_name}".lstrip("."))


def _strings_of(info: inspect.Type, path: str) -> Iterator[str]:
    kind = unwrap(info)
    bare = kind.type
    if isinstance(bare, inspect.UnionType):
        for each in bare.types:
            yield from _strings_of(each, path)
    elif members(kind):
        return
    elif isinstance(bare, inspect.StrType):
        yield path
    elif isinstance(bare, inspect.VarTupleType):
        yield from _strings_of(bare.item_type, f"{path}[]")
    elif isinstance(bare, inspect.DictType):
        yield from (f"{path}{{key}}", f"{path}{{value}}")
    elif isinstance(bare, inspect.StructType):
        yield from strings(bare.cls, path)


STRINGS = sorted(set(strings(UserProbe)))


def _document(path: str, text: str | None) -> dict[str, Any]:
    """A probe with that text at that place; None: as it is without a trick."""
    head = path.partition(".")[0]
    kind, more = _ELSEWHERE.get(path, (head if head in _ENDS else "uprobe", {}))
    probe = copy.deepcopy({**_BASE, kind: _ENDS[kind], **more})
    if kind == "usdt":
        probe.pop("returns")
        probe.pop("errorWhen")
        probe["match"][0].pop("returns")
    if text is not None:
        put(probe, re.findall(r"[^.\[\]{}]+|\[\]|\{\w+\}", path), text)
    return {key: value for key, value in probe.items() if value != []}


def put(node: Any, steps: list[str], text: str) -> None:
    at: Any = 0 if steps[0] == "[]" else steps[0]
    if steps[0] == "{key}":
        node[text] = node.pop(next(iter(node)))
    elif steps[0] == "{value}":
        node[next(iter(node))] = text
    elif len(steps) == 1:
        node[at] = text
    elif isinstance(node[at], list) and len(node[at]) > 1 and steps[1] == "[]" and steps[2:] == ["values", "[]"]:
        put(node[at][-1], steps[2:], text)  # the condition on a text takes any
    else:
        put(node[at], steps[1:], text)


def _text(probe: dict[str, Any]) -> str:
    """Its C text. Raises ProfileError, KernelspanError."""
    spec = {"probes": [probe]}
    head = {"apiVersion": "kernelspan.io/v1alpha1", "kind": "TraceProfile", "metadata": {"name": "x"}}
    profile = load(json.dumps({**head, "spec": spec}).encode(), standalone=True)
    (found,) = profile.spec.probes
    return generated(found, places_of(found, random.Random(1))).text


_WORD = re.compile(r"[A-Za-z_]\w*")


def _shape(text: str) -> str:
    """Without its numbers."""
    return re.sub(r"\b(0x[0-9a-f]+|\d+)(U?LL|U)?\b", "N", text)


def test_all_strings_are_known() -> None:
    """The table reaches every string that a probe has."""
    assert {"name", "span.name", "match[].args[].values[]", "uprobe.symbols[]", "args[].resolve"} <= set(STRINGS)
    for path in STRINGS:
        assert _document(path, "xyzzy") != _document(path, None), path


@pytest.mark.parametrize("path", STRINGS)
@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_tricks(path: str, trick: str) -> None:
    """Refused with words for the user; or the program has the same shape as without it, with no letter of it."""
    base = _text(_document(path.replace("args[].resolve", "args[].type"), None)) if path != "args[].resolve" else ""
    try:
        text = _text(_document(path, trick))
    except (ProfileError, KernelspanError):
        return
    assert "evil" not in text
    assert "probe_write" not in text
    assert text.isascii()
    if path == "match[].args[].values[]":  # compared by its words: as many as it is long
        assert set(_WORD.findall(_shape(text))) <= set(_WORD.findall(_shape(base))) | {"u16", "u8"}
    else:
        assert _shape(text) == _shape(base)


@pytest.mark.parametrize(
    "path", ["span.name", "span.attributes{value}", "match[].args[].values[]", "match[].binaries[].values[]"]
)
def test_strings_of_one_length_differ_in_numbers(path: str) -> None:
    """Two probes that differ in what a text says are programs that differ in numbers alone."""
    one, other = _text(_document(path, '";\\x(){}')), _text(_document(path, "/usr/x12"))
    assert _shape(one) == _shape(other)
    assert (one != other) == (path == "match[].args[].values[]")


def test_a_quote_in_a_text_is_no_program() -> None:
    """The check behind all of this is one."""
    with pytest.raises(AssertionError):
        checked(Generated('int x = "evil";', (), (), ()))
