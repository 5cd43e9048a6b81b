# SPDX-License-Identifier: Apache-2.0
"""The traced processes as one profile shows them: with its resource attributes, seen from the start or joined later."""

from __future__ import annotations

from kernelspan_agent.model import ProcessInfo
from kernelspan_agent.resolve.resource import ResourceSettings, resource_of
from kernelspan_agent.resolve.traced import TracedProcess


class Infos:
    """A ProcessInfo for each process, always the same object. Not for several threads."""

    def __init__(self, settings: ResourceSettings) -> None:
        self._settings = settings
        self._infos: dict[TracedProcess, ProcessInfo] = {}
        self._looks: dict[TracedProcess, int] = {}

    def started(self, traced: TracedProcess) -> ProcessInfo:
        """Of a process that has begun just now, for this profile too."""
        return self._add(traced, from_start=traced.from_start)

    def of_all(self, traced: list[TracedProcess]) -> list[ProcessInfo]:
        """One for each; a process that nobody has told of was traced for others before."""
        for each in set(traced):
            if each not in self._infos:
                self._add(each, from_start=False)
            elif self._looks[each] != each.looks:  # more is known of it by now
                self._infos[each].resource = resource_of(each, self._settings)
                self._looks[each] = each.looks
        return [self._infos[each] for each in traced]

    def ended(self, traced: TracedProcess) -> ProcessInfo | None:
        """Of a process that has ended; None: this profile has never seen it."""
        info = self._infos.get(traced)
        if info is not None:
            info.ended_ns = traced.ended_epoch_ns
        return info

    def forget(self, traced: TracedProcess) -> None:
        """No operation of it comes any more."""
        self._infos.pop(traced, None)
        self._looks.pop(traced, None)

    def _add(self, traced: TracedProcess, *, from_start: bool) -> ProcessInfo:
        parent = self._infos.get(traced.parent) if traced.parent is not None else None
        resource = resource_of(traced, self._settings)
        info = ProcessInfo(traced.tgid, traced.started_epoch_ns, from_start, traced.name, resource, parent)
        self._infos[traced], self._looks[traced] = info, traced.looks
        return info
