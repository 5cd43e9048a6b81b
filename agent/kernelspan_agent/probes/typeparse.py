# SPDX-License-Identifier: Apache-2.0
"""From C text to a type of the running kernel: what a tracepoint's fields and a system call's arguments are.

`const struct iovec *` as tracefs writes it becomes the Leaf that memberpath goes on from. Only what tracefs writes: names,
qualifiers, stars, one array; no declarations of functions.
"""

from __future__ import annotations

import re
from dataclasses import replace

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf
from kernelspan_agent.probes.ktypes import KernelTypes, Leaf, LeafKind

_QUALIFIERS = re.compile(r"\b(?:const|volatile|restrict|__user|__kernel|__iomem|__force|__seg_gs|__percpu|__rcu)\b")
_TYPE = re.compile(
    r"(?P<tag>(?:struct|union|enum) )?(?P<name>[A-Za-z_][A-Za-z0-9_ ]*?) ?(?P<stars>[* ]*)(?:\[(?P<count>[0-9]*)\])?"
)
_TAGS = {"struct": (btf.STRUCT,), "union": (btf.UNION,), "enum": (btf.ENUM, btf.ENUM64)}
_MAX_CHARACTERS = 512
_MAX_STARS = 4


def typed(types: KernelTypes, text: str, *, user: bool = False) -> Leaf | None:
    """The type that the text names; None where it is no text of a type, or none of this kernel's.

    user: a pointer leads into the process's memory, as all of a system call's do.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    match = _TYPE.fullmatch(" ".join(_QUALIFIERS.sub(" ", text).split()))
    if match is None or (stars := match["stars"].count("*")) > _MAX_STARS:
        return None
    base = _base(types, (match["tag"] or "").strip(), match["name"])
    if base is None:
        return None
    if not stars:
        return base if match["count"] is None else _array(base, int(match["count"] or 0), text)
    if match["count"] is not None:
        return None  # an array of pointers: nothing of tracefs is that
    leaf = base
    for star in range(stars):
        shown = text if star == stars - 1 else f"{base.text} {'*' * (star + 1)}"
        leaf = Leaf(LeafKind.POINTER, shown, 8, of=leaf, user=user, module=base.module)
    return leaf


def pointer_to(types: KernelTypes, text: str) -> Leaf:
    """The type `struct NAME *`, to begin with. Raises MachineError (ArgumentUnsupported) where this kernel has none."""
    leaf = typed(types, text)
    if leaf is None or leaf.kind is not LeafKind.POINTER:
        what = f"{text}: no such pointer in this kernel's type information"
        raise MachineError(what, reason="ArgumentUnsupported")
    return leaf


def _base(types: KernelTypes, tag: str, name: str) -> Leaf | None:
    if not tag and name == "void":
        return Leaf(LeafKind.VOID, "void", 0)
    kinds = _TAGS[tag] if tag else (btf.TYPEDEF, btf.INT, btf.FLOAT)
    found = types.find(name if tag else _integer(name), *kinds)
    if found is None:
        return None
    leaf = types.leaf(*found, deep=False)
    return replace(leaf, text=f"{tag} {name}".strip())


def _integer(name: str) -> str:
    """`unsigned long` as BTF has it from the compiler: `long unsigned int`. Other names as they are."""
    words = name.split()
    if not set(words) <= {"unsigned", "signed", "char", "short", "int", "long"}:
        return name
    unsigned = ["unsigned"] if "unsigned" in words else []
    if "char" in words:
        return " ".join([*(word for word in words if word in {"unsigned", "signed"}), "char"])
    if "short" in words:
        return " ".join(["short", *unsigned, "int"])
    return " ".join([*(["long"] * words.count("long")), *unsigned, "int"])


def _array(element: Leaf, count: int, text: str) -> Leaf:
    kind = LeafKind.STRING if element.text == "char" else LeafKind.ARRAY
    return Leaf(kind, text, count * element.size, elements=count, of=element, module=element.module)
