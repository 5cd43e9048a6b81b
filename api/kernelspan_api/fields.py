# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the profile's types: the base of all objects and the kinds of value that recur.

Bounds, descriptions and formats live in `Annotated[..., Meta(...)]`, once: the validator, the reference page and the
CRD read them from there. Integers only, no floats; the unit is in a field's name; every string and list is bounded.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

HOUR_US = 3_600_000_000


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """An object of the API: immutable, camelCase on the wire, defaults filled in when it is read, left out again."""


class NameRef(Part, frozen=True, kw_only=True):
    """A Secret of the profile's namespace that its owner labelled `kernelspan.io/exporter: "true"`."""

    name: Annotated[str, Meta(max_length=253, extra={"format": "dnsSubdomain"}, description="The Secret's name.")]


DnsLabel = Annotated[str, Meta(min_length=1, max_length=63, extra={"format": "dnsLabel"})]
DnsSubdomain = Annotated[str, Meta(min_length=1, max_length=253, extra={"format": "dnsSubdomain"})]
LabelKey = Annotated[str, Meta(min_length=1, max_length=317, extra={"format": "labelKey"})]
LabelValue = Annotated[str, Meta(max_length=63, extra={"format": "labelValue"})]

Glob = Annotated[str, Meta(min_length=1, max_length=1024, extra={"format": "glob"})]
PathGlob = Annotated[str, Meta(min_length=1, max_length=1024, extra={"format": "pathGlob"})]
Regex = Annotated[str, Meta(min_length=1, max_length=256, extra={"format": "regex"})]

Port = Annotated[int, Meta(ge=1, le=65535)]
Cidr = Annotated[str, Meta(min_length=1, max_length=64, extra={"format": "cidr"})]
Header = Annotated[str, Meta(min_length=1, max_length=128, extra={"format": "header"})]
Route = Annotated[str, Meta(min_length=1, max_length=256, extra={"format": "route"})]

ProbePath = Annotated[str, Meta(min_length=1, max_length=1024, extra={"format": "probePath"})]
KernelSymbol = Annotated[str, Meta(min_length=1, max_length=511, extra={"format": "kernelSymbol"})]  # KSYM_NAME_LEN
Identifier = Annotated[str, Meta(min_length=1, max_length=128, extra={"format": "identifier"})]
OptionalIdentifier = Annotated[str, Meta(max_length=128, extra={"format": "optionalIdentifier"})]
Symbol = Annotated[str, Meta(min_length=1, max_length=511, extra={"format": "symbol"})]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]

AttributeName = Annotated[str, Meta(min_length=1, max_length=128, extra={"format": "attribute"})]
AttributeText = Annotated[str, Meta(max_length=256)]
Value = Annotated[str, Meta(max_length=256)]

MinDuration = Annotated[int, Meta(ge=0, le=HOUR_US)]
Rate = Annotated[int, Meta(ge=1, le=10_000_000)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
