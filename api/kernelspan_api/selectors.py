# SPDX-License-Identifier: Apache-2.0
"""Whom a profile traces: Kubernetes' selectors, and the selector of processes that needs no Kubernetes."""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta, field

from .fields import DnsSubdomain, Glob, LabelKey, LabelValue, Part


class SelectorOperator(enum.Enum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelExpression(Part, frozen=True, kw_only=True):
    """One requirement on a label, as metav1.LabelSelectorRequirement."""

    key: Annotated[LabelKey, Meta(description="The label's key.")]
    operator: Annotated[SelectorOperator, Meta(description="How the label is compared with `values`.")]
    values: Annotated[
        tuple[LabelValue, ...],
        Meta(max_length=64, description="What the label is compared with: some for In and NotIn, none for the others."),
    ] = ()


class LabelSelector(Part, frozen=True, kw_only=True):
    """Objects by their labels, as metav1.LabelSelector: all requirements must hold; {} selects everything."""

    match_labels: Annotated[
        dict[LabelKey, LabelValue], Meta(max_length=64, description="Labels the object must have, with these values.")
    ] = field(default_factory=dict)
    match_expressions: Annotated[
        tuple[LabelExpression, ...], Meta(max_length=64, description="Further requirements on labels.")
    ] = ()


class WorkloadKind(enum.Enum):
    """Kinds of workload a profile can name."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"
    REPLICA_SET = "ReplicaSet"
    JOB = "Job"
    CRON_JOB = "CronJob"


class WorkloadRef(Part, frozen=True, kw_only=True):
    """One workload of the profile's namespace, by name."""

    api_version: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            extra={"format": "apiVersion"},
            description="apps/v1; batch/v1 for Job and CronJob.",
        ),
    ]
    kind: Annotated[WorkloadKind, Meta(description="The workload's kind.")]
    name: Annotated[DnsSubdomain, Meta(description="The workload's name.")]


class ContainerSelector(Part, frozen=True, kw_only=True):
    """Containers of the selected pods by name."""

    include: Annotated[
        tuple[Glob, ...], Meta(max_length=32, description="Globs of container names to trace. Empty: every container.")
    ] = ()
    exclude: Annotated[
        tuple[Glob, ...],
        Meta(max_length=32, description="Globs of container names not to trace; stronger than `include`."),
    ] = ()


class Runtime(enum.Enum):
    """What runs a program. Native: none of the others."""

    PYTHON = "Python"
    NODE_JS = "NodeJS"
    GO = "Go"
    JAVA = "Java"
    PHP = "PHP"
    RUBY = "Ruby"
    NATIVE = "Native"


class ProcessSelector(Part, frozen=True, kw_only=True):
    """Processes by executable and runtime; a child follows its parent."""

    executables: Annotated[
        tuple[Glob, ...],
        Meta(
            max_length=64,
            description="Globs of executables: with a slash compared with the whole path, else with the base name. "
            "Empty: every executable.",
        ),
    ] = ()
    runtimes: Annotated[
        tuple[Runtime, ...],
        Meta(max_length=7, extra={"list": "set"}, description="Only processes of these runtimes. Empty: of any."),
    ] = ()
