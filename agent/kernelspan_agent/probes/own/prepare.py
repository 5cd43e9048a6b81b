# SPDX-License-Identifier: Apache-2.0
"""From probes of a profile to compiled modules: everything that takes time and changes nothing in the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.build import Module, build
from kernelspan_agent.probes.own.codegen import Generated, Generator, checked
from kernelspan_agent.probes.own.machine import Plan, host_namespace, plan_of
from kernelspan_api.userprobes import UserProbe


@dataclass(frozen=True, slots=True)
class Prepared:
    """A probe that can be loaded; or, with `problem`, why it cannot."""

    spec: UserProbe
    plan: Plan | None = None
    generated: Generated | None = None
    module: Any = None  # as the compiling child gives it
    problem: KernelspanError | None = None


def planned(specs: Sequence[UserProbe]) -> list[Prepared]:
    """The probes with their text; nothing is compiled."""
    return [_planned(spec) for spec in specs]


def _planned(spec: UserProbe) -> Prepared:
    try:
        plan = plan_of(spec)
        generated = checked(Generator(spec, plan.places, host_namespace).generate())
    except KernelspanError as error:
        return Prepared(spec, problem=error)
    return Prepared(spec, plan, generated)


def prepare(specs: Sequence[UserProbe], defines: Mapping[str, int], environ: Mapping[str, str]) -> list[Prepared]:
    """The probes with their modules; a text that does not compile fails alone."""
    found = planned(specs)
    wanted = {each.generated.text: each.generated for each in found if each.generated is not None}
    built = _build(list(wanted.values()), defines, environ)
    done = []
    for each in found:
        module = built[each.generated.text] if each.generated is not None else None
        if isinstance(module, KernelspanError):
            done.append(replace(each, problem=module))
        else:
            done.append(replace(each, module=module))
    return done


def _build(texts: Sequence[Generated], defines: Mapping[str, int], environ: Mapping[str, str]) -> dict[str, Any]:
    """By text the built module, or the error that its own compile gave."""
    modules = [Module(f"own{index}", each.programs, each.text) for index, each in enumerate(texts)]
    if not modules:
        return {}
    try:
        built = build(modules, defines, environ)
    except KernelspanError as error:
        if len(texts) == 1:
            return {texts[0].text: error}
        return {text: module for each in texts for text, module in _build([each], defines, environ).items()}
    return {each.text: built.modules[module.name] for each, module in zip(texts, modules, strict=True)}
