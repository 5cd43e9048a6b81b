# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions are what the types say, whole; that an API server takes them: tests/cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from kernelspan_api import crd
from kernelspan_api.resource import KINDS, ClusterTraceProfile, ObjectMeta, TraceProfile
from kernelspan_api.rules import RULES
from kernelspan_api.schema import struct_type, unwrap

FOLDER = Path(__file__).resolve().parents[3] / "charts/kernelspan/files/crds"
KIND_IDS = list(KINDS)


def schema(cls: type[TraceProfile]) -> dict[str, Any]:
    """The schema of the whole object."""
    (version,) = crd.manifest(cls)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below `node`, itself first, with its path."""
    yield path, node
    for name, one in node.get("properties", {}).items():
        yield from nodes(one, f"{path}.{name}")
    for name, step in (("items", "[]"), ("additionalProperties", "{}")):
        if name in node:
            yield from nodes(node[name], path + step)


def struct_paths(cls: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Every object type below `cls`, with the path that `nodes` gives it; what the API server keeps is left out."""
    yield path, cls
    for one in struct_type(cls).fields:
        bare = unwrap(one.type).type
        where = f"{path}.{one.encode_name}"
        if isinstance(bare, inspect.VarTupleType):
            bare, where = unwrap(bare.item_type).type, f"{where}[]"
        if isinstance(bare, inspect.StructType) and bare.cls is not ObjectMeta:
            yield from struct_paths(bare.cls, where)


@pytest.mark.parametrize("cls", KINDS.values(), ids=KIND_IDS)
def test_definition_is_current(cls: type[TraceProfile]) -> None:
    """Run `make crds` after a change of the types."""
    assert (FOLDER / crd.file_name(cls)).read_text("utf-8") == crd.text(cls)


def test_there_is_nothing_else() -> None:
    """A definition of a kind that is no more would still be installed."""
    assert {path.name for path in FOLDER.iterdir()} == {crd.file_name(cls) for cls in KINDS.values()}


@pytest.mark.parametrize("cls", KINDS.values(), ids=KIND_IDS)
def test_file_says_what_the_definition_says(cls: type[TraceProfile]) -> None:
    """The YAML reads back as it was, without an anchor."""
    assert yaml.safe_load(crd.text(cls)) == crd.manifest(cls)
    assert "&id" not in crd.text(cls)


@pytest.mark.parametrize("cls", KINDS.values(), ids=KIND_IDS)
def test_every_field_of_every_type_is_there(cls: type[TraceProfile]) -> None:
    """With its description, and every rule of its type with the rule's message."""
    found = dict(nodes(schema(cls)))
    for path, struct in struct_paths(cls):
        properties = found[path]["properties"]
        assert list(properties) == [one.encode_name for one in struct_type(struct).fields]
        assert all(one.get("description") for name, one in properties.items() if name != "metadata")
        rules = [rule for rule in RULES if issubclass(struct, rule.on)]
        said = [one["message"] for one in found[path].get("x-kubernetes-validations", ())]
        assert said == [rule.message for rule in rules for _ in rule.cel]


@pytest.mark.parametrize("cls", KINDS.values(), ids=KIND_IDS)
def test_everything_is_bounded_and_speaks_plainly(cls: type[TraceProfile]) -> None:
    """Text, lists and maps have a greatest length, and every message of a rule begins with "must"."""
    bound = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
    for path, node in nodes(schema(cls)):
        if path not in {".apiVersion", ".kind", ".metadata"} and "properties" not in node and "enum" not in node:
            assert bound.get(node["type"], "type") in node, path
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"].startswith("must "), path
            assert rule.get("fieldPath", ".").removeprefix(".") in {"", *node.get("properties", {})}, path


def test_status_takes_what_a_newer_operator_says() -> None:
    """No enumeration: a definition is upgraded after the operator, or never."""
    status = schema(TraceProfile)["properties"]["status"]
    assert [path for path, node in nodes(status) if "enum" in node] == []


def test_what_means_all_is_not_filled_in() -> None:
    """A stored profile that asked for all operations gets those of a later version too."""
    spec = schema(ClusterTraceProfile)["properties"]["spec"]
    assert [path for path, node in nodes(spec) if node["type"] == "array" and "default" in node] == []
    assert spec["properties"]["files"]["properties"]["minDurationMicroseconds"]["default"] == 0
