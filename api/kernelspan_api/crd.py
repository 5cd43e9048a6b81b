# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions, written from the types: `python -m kernelspan_api.crd FOLDER` (`make crds`).

charts/kernelspan/files/crds is this module's output; a test compares them. Bounds, descriptions and defaults are those of the
annotations, rules between fields those of `rules`, as CEL. Three things are left out on purpose:

* Defaults that are empty or mean "all": filled in, they would stay in the stored object, and a profile that asked for
  all operations would not get those of a later version.
* Enumerations in the status: the operator may be newer than the definition, and its report must not be refused for a
  reason that the definition does not know.
* `pattern`: a CEL rule says the same in words ("must be …") where a pattern would show its expression.
"""

from __future__ import annotations

import enum
import inspect as pyinspect
import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from .cel import fits
from .fields import NameRef
from .resource import GROUP, KINDS, VERSION, ClusterTraceProfile, ObjectMeta, TraceProfile
from .rules import RULES
from .schema import Kind, allowed, members, struct_type, unwrap
from .selectors import LabelSelector, WorkloadRef

Schema = dict[str, Any]

_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by `make crds`. Edit the types in api/kernelspan_api instead.
"""
_LINE_WIDTH = 120
_INT64_MAX = 2**63 - 1  # said by `format: int64`; as a JSON number it would be rounded up
_STATUS_NAME_LENGTH = 253  # of an enumeration's member in the status, as `status.Name`
# Replaced as a whole by server-side apply: half of one owner's selector and half of another's select what nobody meant.
_ATOMIC = (LabelSelector, WorkloadRef, NameRef)
_SHORT_NAMES = {"TraceProfile": "tprof", "ClusterTraceProfile": "ctprof"}
_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether every node holds the plan.", 0),
    ("Pods", "integer", ".status.summary.pods", "Pods selected.", 0),
    ("Nodes", "integer", ".status.summary.nodesReady", "Nodes that hold the whole plan.", 0),
    ("Probes", "integer", ".status.summary.probesAttached", "Probes attached.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is not ready.", 1),
    ("Age", "date", ".metadata.creationTimestamp", "Since when it exists.", 0),
)


def manifest(cls: type[TraceProfile]) -> Schema:
    """The CustomResourceDefinition of one of KINDS, as plain values."""
    kind = cls.__name__
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster" if cls is ClusterTraceProfile else "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [_SHORT_NAMES[kind]],
                "categories": ["kernelspan"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path, "description": says, "priority": priority}
                        for name, type_, path, says, priority in _COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": _root(cls)},
                }
            ],
        },
    }


def text(cls: type[TraceProfile]) -> str:
    """The same as YAML."""
    return _HEAD + yaml.dump(manifest(cls), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)


def file_name(cls: type[TraceProfile]) -> str:
    """Where in its folder the definition stands."""
    return f"{cls.__name__.lower()}s.yaml"


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are for no reader."""

    def ignore_aliases(self, data: Any) -> bool:
        """Of all."""
        del data
        return True


def _root(cls: type[TraceProfile]) -> Schema:
    """The object as a whole; of its metadata the API server knows more than a schema may say."""
    fields = struct_type(cls).fields
    properties: Schema = {}
    for one in fields:
        kind = unwrap(one.type)
        if one.encode_name in ("apiVersion", "kind"):
            properties[one.encode_name] = {"description": kind.description, "type": "string"}
        elif isinstance(kind.type, inspect.StructType) and kind.type.cls is ObjectMeta:
            properties[one.encode_name] = {"type": "object"}
        else:
            properties[one.encode_name] = _field(one, in_status=one.encode_name == "status")
    return {"description": _says(cls), "type": "object", "required": ["spec"], "properties": properties}


def _field(field: inspect.Field, *, in_status: bool) -> Schema:
    kind = unwrap(field.type)
    schema = {"description": kind.description, **_schema(field.type, in_status=in_status)}
    default = _default(field, kind, schema)
    return schema if default is None else {**schema, "default": default}


def _default(field: inspect.Field, kind: Kind, schema: Schema) -> object:
    """What is filled in where the field is missing; None: nothing."""
    if "default" in kind.extra:
        return yaml.safe_load(kind.extra["default"])
    value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if value is msgspec.NODEFAULT:
        return None
    if isinstance(value, msgspec.Struct):
        inside = any("default" in one for one in schema["properties"].values())
        return {} if inside else None
    if isinstance(value, enum.Enum):
        return value.value
    return value if isinstance(value, int) else None


def _schema(type_: inspect.Type, *, in_status: bool) -> Schema:
    kind = unwrap(type_)
    bare = kind.type
    if names := members(kind):
        return {"type": "string", **({"maxLength": _STATUS_NAME_LENGTH} if in_status else {"enum": list(names)})}
    if isinstance(bare, inspect.BoolType):
        return {"type": "boolean"}
    if isinstance(bare, inspect.IntType):
        return _integer(bare)
    if isinstance(bare, inspect.StrType):
        return _string(kind, bare, type_)
    if isinstance(bare, inspect.VarTupleType):
        return _list(kind, bare, in_status=in_status)
    if isinstance(bare, inspect.DictType):
        return _map(bare, in_status=in_status)
    assert isinstance(bare, inspect.StructType)
    return _struct(bare, in_status=in_status)


def _integer(bare: inspect.IntType) -> Schema:
    assert isinstance(bare.le, int)
    wide = bare.le > 2**31 - 1
    most = {} if bare.le == _INT64_MAX else {"maximum": bare.le}
    return {"type": "integer", "format": "int64" if wide else "int32", "minimum": bare.ge, **most}


def _string(kind: Kind, bare: inspect.StrType, type_: inspect.Type) -> Schema:
    schema: Schema = {"type": "string", "maxLength": bare.max_length}
    if bare.min_length:
        schema["minLength"] = bare.min_length
    rule = fits(kind.extra["format"]) if "format" in kind.extra else ""
    return {**schema, **_validations([(rule, f"must be {allowed(type_)}", "")] if rule else [])}


def _list(kind: Kind, bare: inspect.VarTupleType, *, in_status: bool) -> Schema:
    policy, _, key = kind.extra.get("list", "atomic").partition(":")
    schema: Schema = {"type": "array", "maxItems": bare.max_length}
    if bare.min_length:
        schema["minItems"] = bare.min_length
    schema["x-kubernetes-list-type"] = policy
    if key:
        schema["x-kubernetes-list-map-keys"] = [key]
    item = unwrap(bare.item_type).type
    says = {"description": _says(item.cls)} if isinstance(item, inspect.StructType) else {}
    return {**schema, "items": {**says, **_schema(bare.item_type, in_status=in_status)}}


def _map(bare: inspect.DictType, *, in_status: bool) -> Schema:
    key = unwrap(bare.key_type)
    message = f"must have keys each of which is {allowed(bare.key_type)}"
    assert isinstance(key.type, inspect.StrType)
    rule = f"self.all(key, key.size() <= {key.type.max_length} && {fits(key.extra['format'], 'key')})"
    return {
        "type": "object",
        "maxProperties": bare.max_length,
        "additionalProperties": _schema(bare.value_type, in_status=in_status),
        **_validations([(rule, message, "")]),
    }


def _struct(bare: inspect.StructType, *, in_status: bool) -> Schema:
    schema: Schema = {"type": "object"}
    if required := [one.encode_name for one in bare.fields if one.required]:
        schema["required"] = required
    if issubclass(bare.cls, _ATOMIC):
        schema["x-kubernetes-map-type"] = "atomic"
    schema["properties"] = {one.encode_name: _field(one, in_status=in_status) for one in bare.fields}
    rules = [(one.text, rule.message, one.field) for rule in RULES if issubclass(bare.cls, rule.on) for one in rule.cel]
    return {**schema, **_validations(rules)}


def _validations(rules: list[tuple[str, str, str]]) -> Schema:
    """`x-kubernetes-validations` of (expression, message, field)."""
    entries = [
        {"rule": rule, "message": message, **({"fieldPath": f".{field}"} if field else {})}
        for rule, message, field in rules
    ]
    return {"x-kubernetes-validations": entries} if entries else {}


def _says(cls: type) -> str:
    return " ".join((pyinspect.getdoc(cls) or "").split())


def main() -> None:
    """Write the definitions into the folder named."""
    folder = Path(sys.argv[1])
    for cls in KINDS.values():
        (folder / file_name(cls)).write_text(text(cls), encoding="utf-8")


if __name__ == "__main__":
    main()
