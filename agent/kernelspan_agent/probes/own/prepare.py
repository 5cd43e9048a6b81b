# SPDX-License-Identifier: Apache-2.0
"""From probes of a profile to compiled modules: everything that takes time and changes nothing in the kernel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.probes.build import Module, build
from kernelspan_agent.probes.ktypes import Leaf, Resolved
from kernelspan_agent.probes.memberpath import resolve
from kernelspan_agent.probes.own.codegen import Generated, Generator
from kernelspan_agent.probes.own.limits import require_text
from kernelspan_agent.probes.own.machine import Machine, Plan, host_namespace, plan_of
from kernelspan_api.userprobes import UserProbe


@dataclass(frozen=True, slots=True)
class Prepared:
    """A probe that can be loaded; or, with `problem`, why it cannot. Without a plan it waits for the file it is in."""

    spec: UserProbe
    plan: Plan | None = None
    generated: Generated | None = None
    module: Any = None  # as the compiling child gives it
    problem: KernelspanError | None = None

    def close(self) -> None:
        """Gives back what its plan holds; `OwnProbes.attach` does it too."""
        if self.plan is not None:
            self.plan.close()


def planned(specs: Sequence[UserProbe]) -> list[Prepared]:
    """The probes with their text; nothing is compiled."""
    machine = Machine()
    try:
        machine.expect(spec.kprobe for spec in specs if spec.kprobe is not None)
        return [_planned(spec, machine) for spec in specs]
    finally:
        machine.close()


def _planned(spec: UserProbe, machine: Machine) -> Prepared:
    if spec.file is not None:
        return Prepared(spec)  # the file is known with the first process that has it: see files
    try:
        plan = plan_of(spec, machine)
        return Prepared(spec, plan, text_of(spec, plan, lambda leaf, path: resolve(machine.types, leaf, path)))
    except KernelspanError as error:
        return Prepared(spec, problem=error)
    except OSError as error:  # tracefs, BTF: this probe's alone, as far as it is known
        return Prepared(spec, problem=MachineError(f"what it needs of this machine cannot be read: {error}"))


def text_of(spec: UserProbe, plan: Plan, way: Callable[[Leaf, str], Resolved]) -> Generated:
    """The C text of a probe that attaches as the plan says. Raises ArgumentError; the plan is closed then.

    `way`: from a value along a path of members.
    """
    try:
        return checked(Generator(spec, plan.places, host_namespace, way).generate())
    except KernelspanError:
        plan.close()
        raise


def prepare(specs: Sequence[UserProbe], defines: Mapping[str, int], environ: Mapping[str, str]) -> list[Prepared]:
    """The probes with their modules; a text that does not compile fails alone."""
    found = planned(specs)
    wanted = {each.generated.text: each.generated for each in found if each.generated is not None}
    built = build_all(list(wanted.values()), defines, environ)
    done = []
    for each in found:
        module = built[each.generated.text] if each.generated is not None else None
        if isinstance(module, KernelspanError):
            done.append(replace(each, problem=module))
        else:
            done.append(replace(each, module=module))
    return done


def _name(text: str) -> str:
    """Of a module: the same text has the same, whatever else is built with it, and so is found compiled."""
    return f"own-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def build_all(texts: Sequence[Generated], defines: Mapping[str, int], environ: Mapping[str, str]) -> dict[str, Any]:
    """By text the built module, or the error that its own compile gave."""
    modules = [Module(_name(each.text), each.programs, each.text) for each in texts]
    if not modules:
        return {}
    try:
        built = build(modules, defines, environ)
    except KernelspanError as error:
        if len(texts) == 1:
            return {texts[0].text: error}
        return {text: module for each in texts for text, module in build_all([each], defines, environ).items()}
    return {each.text: built.modules[module.name] for each, module in zip(texts, modules, strict=True)}


_PLAIN = re.compile(r'(?:#include "own(?:_calls)?\.h"|[\x20\x21\x23-\x7e\t\n])*')  # no other quotation mark


def checked(generated: Generated) -> Generated:
    """The same; refuses a text with anything in it that no template of ours has, or more of it (BudgetError)."""
    require_text(generated.text)
    if not _PLAIN.fullmatch(generated.text):
        raise AssertionError("a generated text holds what no template has")
    return generated
