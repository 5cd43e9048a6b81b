# SPDX-License-Identifier: Apache-2.0
"""Attribute names and status reasons: complete, and as stable as they claim."""

from __future__ import annotations

import importlib
import pkgutil
import re

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from opentelemetry.semconv.schemas import Schemas

from kernelspan_agent.model import VALUE_KEYS, Origin
from kernelspan_api import semconv
from kernelspan_api.operations import OPERATIONS
from kernelspan_api.reasons import Reason

ROWS = list(semconv.ATTRIBUTES.values())


def names_in(package: object) -> set[str]:
    """Attribute names that OpenTelemetry's own package defines."""
    found = set()
    for info in pkgutil.iter_modules(package.__path__):  # type: ignore[attr-defined]
        module = importlib.import_module(f"{package.__name__}.{info.name}")  # type: ignore[attr-defined]
        found |= {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    return found


STABLE, INCUBATING = names_in(stable), names_in(incubating)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_stability_is_what_opentelemetry_says(row: semconv.Attribute) -> None:
    """A stable name is in the stable package, one in development only in the other, ours in neither."""
    if row.stability is semconv.Stability.STABLE:
        assert row.name in STABLE
    elif row.stability is semconv.Stability.DEVELOPMENT:
        assert row.name in INCUBATING - STABLE
    else:
        assert row.name not in INCUBATING | STABLE
        assert row.name.startswith("kernelspan.")


def test_schema_version_exists() -> None:
    """The schema's address is one that OpenTelemetry published."""
    assert Schemas.V1_44_0.value == semconv.SCHEMA_URL


def test_integers_of_the_span_rows_are_integers_here() -> None:
    """What the span columns carry as an integer, and what operations name, is in the table as an integer."""
    used = {name for name in VALUE_KEYS if name} | {op.argument for op in OPERATIONS} | {op.result for op in OPERATIONS}
    for name in used - {""}:
        assert semconv.ATTRIBUTES[name].kind is semconv.Kind.INT


def test_closed_sets_agree_with_the_model() -> None:
    """The values of an origin are the model's."""
    assert semconv.ATTRIBUTES[semconv.CODE_ORIGIN].values == tuple(origin.value for origin in Origin)


def test_every_name_has_a_constant() -> None:
    """A name in the table can be had without writing it out."""
    constants = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    constants |= {name for pair in semconv.K8S_WORKLOADS.values() for name in pair}
    assert set(semconv.ATTRIBUTES) <= constants


DESIGN = """NoMatchingPods NoMatchingProcesses InvalidSpec FunctionNotFound FunctionBlacklisted TracepointNotFound
SymbolNotFound SymbolStripped BinaryNotFound UsdtNotFound ArgumentUnsupported MechanismUnsupported CompileFailed
VerifierRejected PermissionDenied LockdownActive KernelTooOld TooManyProbes RuntimeUnsupported RuntimeLayoutUnknown
RuntimePending ForbiddenByPolicy SecretNotAllowed UretprobeUnsafe SoftirqContext BudgetExceeded CollectorUnreachable
AgentOutdated AgentUnreachable Expired Paused"""


def test_reasons_are_the_published_ones() -> None:
    """Users' alerts match on reasons: none is renamed or lost, and each says what it means and what to do."""
    assert [reason.value for reason in Reason] == DESIGN.split()
    for reason in Reason:
        assert re.fullmatch(r"[^\n]+\.", reason.meaning)
        assert re.fullmatch(r"[^\n]+\.", reason.remedy)
