# SPDX-License-Identifier: Apache-2.0
"""Reading a profile: text in, a valid TraceProfile out, or a ProfileError that names everything that is wrong.

What is not built yet parses and validates like the rest; `unavailable` names what a profile asks for in vain, so that
nothing is silently ignored.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

import msgspec

from .handling import ExportProtocol, Stacks
from .problems import MISSING, UNREADABLE, Findings, Problem, ProfileError, shorten
from .resource import API_VERSION, KINDS, ClusterSpec, ClusterTraceProfile, Spec, TraceProfile
from .subjects import RequestTLS
from .validation import check
from .yamltext import read

__all__ = [
    "ClusterTraceProfile",
    "Problem",
    "ProfileError",
    "Spec",
    "TraceProfile",
    "ignored_standalone",
    "load",
    "unavailable",
    "validate",
]

NOT_AVAILABLE = "not available in this version"
_LAST_STEP = re.compile(r"(\.[^.\[\]]*|\[[^\]]*\]|^[^.\[\]]+)$")


def load(text: bytes | str, *, standalone: bool = False) -> TraceProfile:
    """The profile in `text`, one YAML (or JSON) document; a ClusterTraceProfile where its kind says so.

    `standalone`: Kubernetes' selectors may be missing, see `ignored_standalone`. Raises ProfileError.
    """
    findings = Findings()
    document = read(text, findings)
    if not document.read:
        raise findings.error()
    try:
        profile = _profile(document.value, findings, standalone)
    except ProfileError as error:
        problems = [replace(one, line=one.line or _line(one.path, document.lines)) for one in error.problems]
        raise ProfileError(sorted(problems, key=lambda one: (one.line == 0, one.line))) from None
    return profile


def validate(document: object, *, standalone: bool = False) -> TraceProfile:
    """The same for an object already parsed, as an API client has it. Raises ProfileError."""
    return _profile(document, Findings(), standalone)


def _profile(document: object, findings: Findings, standalone: bool) -> TraceProfile:
    cls = _kind(document, findings)
    if cls is None or not isinstance(document, dict):
        raise findings.error()
    # The status is the operator's to write, and one of a newer operator need not be known here.
    document = {key: value for key, value in document.items() if key != "status"}
    check(document, cls, findings, standalone=standalone)
    if findings.problems:
        raise findings.error()
    try:
        return msgspec.convert(document, cls)
    except msgspec.ValidationError as error:  # stricter than our own check: never taken for valid
        findings.add("", MISSING, f"must be a valid {cls.__name__}: {error}")
        raise findings.error() from None


def _kind(document: object, findings: Findings) -> type[TraceProfile] | None:
    """The type that the document says it is: without it there is nothing to compare with."""
    if not isinstance(document, dict):
        if document is not UNREADABLE:
            findings.add("", document, "must be an object with apiVersion, kind, metadata, spec")
        return None
    kind, version = document.get("kind", MISSING), document.get("apiVersion", MISSING)
    if isinstance(kind, str) and kind in KINDS and version == API_VERSION:
        return KINDS[kind]
    if version != API_VERSION and version is not UNREADABLE:
        findings.add("apiVersion", version, f"must be {API_VERSION}")
    if kind is not UNREADABLE and not (isinstance(kind, str) and kind in KINDS):
        near = difflib.get_close_matches(kind[:64], KINDS, n=1) if isinstance(kind, str) else []
        hint = f"; did you mean {near[0]}?" if near else ""
        findings.add("kind", kind, f"must be one of {', '.join(KINDS)}{hint}")
    return None


def _line(path: str, lines: dict[str, int]) -> int:
    """Line of the innermost object of `path` that the text has."""
    while path and path not in lines:
        shorter = _LAST_STEP.sub("", path)
        path = shorter if shorter != path else ""
    return lines.get(path, 0)


def unavailable(profile: TraceProfile) -> list[Problem]:
    """What the profile asks for by name and this version cannot do. Empty: it can be run."""
    spec = profile.spec
    found: list[tuple[str, object, str]] = []
    otlp = spec.export.otlp if spec.export else None
    found.extend(
        (f"spec.requests[{index}].tls", request.tls.value, "")
        for index, request in enumerate(spec.requests)
        if request.tls is not RequestTLS.NONE
    )
    settings = (
        ("spec.code.stacks", spec.code.stacks.value, spec.code.stacks is Stacks.NATIVE, "allowed are Managed, None"),
        ("spec.code.kernelStack", True, spec.code.kernel_stack, ""),
        (
            "spec.export.otlp.tls.insecureSkipVerify",
            True,
            bool(otlp and otlp.tls and otlp.tls.insecure_skip_verify and otlp.protocol is ExportProtocol.GRPC),
            "over gRPC; take protocol: HTTP, or give the collector's CA",
        ),
    )
    found.extend((path, value, hint) for path, value, asked, hint in settings if asked)
    return [Problem(path, shorten(value), NOT_AVAILABLE + (f"; {hint}" if hint else "")) for path, value, hint in found]


def ignored_standalone(profile: TraceProfile) -> list[str]:
    """Paths of what the profile says that only Kubernetes gives a meaning: a run on one machine ignores these."""
    spec = profile.spec
    otlp = spec.export.otlp if spec.export else None
    tls = otlp.tls if otlp else None
    present = {
        "spec.podSelector": spec.pod_selector is not None,
        "spec.workloadRef": spec.workload_ref is not None,
        "spec.namespaceSelector": isinstance(spec, ClusterSpec) and spec.namespace_selector is not None,
        "spec.containerSelector": spec.container_selector is not None,
        "spec.nodeSelector": bool(spec.node_selector),
        "spec.export.otlp.headersSecretRef": otlp is not None and otlp.headers_secret_ref is not None,
        "spec.export.otlp.tls.caSecretRef": tls is not None and tls.ca_secret_ref is not None,
        "spec.export.otlp.tls.certificateSecretRef": tls is not None and tls.certificate_secret_ref is not None,
    }
    return [path for path, there in present.items() if there]
