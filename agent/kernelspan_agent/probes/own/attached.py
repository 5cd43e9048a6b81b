# SPDX-License-Identifier: Apache-2.0
"""The user's own probes of one session: each loaded and attached by itself, so that one that fails takes no other with it.

A probe has a number, by which match classes want it and its operations are told apart. The same probe of two profiles, alike
in everything, is one.
"""

from __future__ import annotations

import struct
from collections import Counter as Sums
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kernelspan_agent.errors import BudgetError, KernelspanError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.own.prepare import Prepared
from kernelspan_agent.resolve.arguments import Captured
from kernelspan_agent.ring.records import MAX_OWN_PROBES
from kernelspan_agent.runtimes.registry import Runtime
from kernelspan_api.plan import key_of
from kernelspan_api.userprobes import RateScope, UserProbe

EVERY = 0xFFFFFFFF  # of the guard's share: nothing is thrown away
SCRATCHES = "ks_scratches."  # the loader's name for those of own probes
SCRATCH_ENTRIES = 2  # KS_OWN_SCRATCH_* in bpf/include/own.h
_CONFIG = struct.Struct("<QQQIIII")
_KEY_BYTES = 16
_CALL = struct.Struct("<QQQIIII")  # struct ks_own_call
_CLASS_AT = 5
_OWN_MAPS = frozenset({"ks_own_calls", "ks_own_blank", "ks_own_config", "ks_own_rates", "ks_scratches"})
_SCOPES = {RateScope.PROCESS: 0, RateScope.POD: 1, RateScope.NODE: 2}


@dataclass(slots=True, eq=False)
class OwnProbe:
    """A probe of the user's. `problem`: why it is not attached."""

    spec: UserProbe
    number: int
    mechanism: str = ""
    captured: tuple[Captured, ...] = ()
    problem: KernelspanError | None = None
    attachments: list[Attachment] = field(default_factory=list)
    walks: Load | None = None  # how its walkers are loaded; None: its programs never walk

    @property
    def suffix(self) -> str:
        """Behind the names of what is loaded for it."""
        return f".{self.number}"


class OwnProbes:
    """Those of one session. Not for several threads."""

    def __init__(self, loader: Loader, array: str) -> None:
        """`array`: the program array that walkers are called by."""
        self._loader, self._array = loader, array
        self._walkers: dict[str, tuple[Runtime, Any]] = {}  # each with its built module
        self._probes: dict[bytes, OwnProbe] = {}

    def add_walker(self, runtime: Runtime, module: Mapping[str, Any]) -> None:
        """From now on processes of this runtime can be walked, wherever a probe's program may walk. Raises MachineError."""
        self._walkers[runtime.name] = runtime, module
        for own in self:
            if own.walks is not None:
                self._load_walker(own, own.walks, runtime, module)

    def _load_walker(self, own: OwnProbe, like: Load, runtime: Runtime, module: Mapping[str, Any]) -> None:
        self._loader.load(replace(like, module=module, own_maps=frozenset({"ks_scratches", self._array})))
        for place, program in runtime.places.items():
            self._loader.link(self._array + own.suffix, place, program + own.suffix)

    def __iter__(self) -> Iterator[OwnProbe]:
        return iter(self._probes.values())

    def get(self, spec: UserProbe) -> OwnProbe | None:
        """The probe of that spec; None: it was never asked for."""
        return self._probes.get(key_of(spec))

    def mask(self, specs: Sequence[UserProbe]) -> int:
        """Bits by the numbers of these, of those that are attached."""
        found = (self.get(spec) for spec in specs)
        return sum(1 << own.number for own in found if own is not None and own.problem is None)

    def open(self, prepared: Sequence[Prepared]) -> None:
        """Loads and attaches; what cannot be says why (`OwnProbe.problem`). Raises BudgetError: too many."""
        for each in prepared:
            key = key_of(each.spec)
            if key in self._probes:
                continue
            own = self._probes[key] = OwnProbe(each.spec, self._free(), problem=each.problem)
            if each.problem is not None or each.plan is None or each.generated is None:
                continue
            own.mechanism, own.captured = each.plan.mechanism, each.generated.captured
            try:
                self._open(own, each)
            except KernelspanError as error:
                own.problem = error
                self._close(own)

    def remove(self, own: OwnProbe) -> None:
        """Detaches a probe and gives back what it has."""
        self._close(own)
        self._probes.pop(key_of(own.spec), None)

    def _free(self) -> int:
        taken = {own.number for own in self}
        number = next((each for each in range(MAX_OWN_PROBES) if each not in taken), None)
        if number is None:
            raise BudgetError(f"a node has at most {MAX_OWN_PROBES} own probes at once", reason="TooManyProbes")
        return number

    def _open(self, own: OwnProbe, prepared: Prepared) -> None:
        plan, generated = prepared.plan, prepared.generated
        assert plan is not None and generated is not None
        source = plan.places.enters[0]
        load = Load(prepared.module, source.kind, own.suffix, _OWN_MAPS | {self._array})
        self._loader.load(load)
        if not source.is_user:
            own.walks = load
            for runtime, module in self._walkers.values():
                self._load_walker(own, load, runtime, module)
        self.configure(own)
        # returns first: an entry without its return would stay in flight
        for names, attaches in ((generated.exits, plan.exits), (generated.enters, plan.enters)):
            for name, attach in zip(names, attaches, strict=True):
                own.attachments.append(attach(self._loader.programs[name + own.suffix]))

    def configure(self, own: OwnProbe, keep: int = EVERY) -> None:
        """Tells the kernel a probe's limits. `keep`: of 2^32 hits, how many are not thrown away."""
        limit = own.spec.rate_limit
        interval = 1_000_000_000 // limit.events_per_second if limit else 0
        burst = (limit.burst or limit.events_per_second) if limit else 0
        value = _CONFIG.pack(
            own.spec.min_duration_microseconds * 1000,
            interval,
            interval * burst,
            own.number,
            keep,
            _SCOPES[limit.scope] if limit else 0,
            0,
        )
        bpf.map_update(self._loader.maps["ks_own_config" + own.suffix], bytes(4), value)

    def in_flight(self) -> Sums[int]:
        """Calls that have begun and not ended, by class."""
        found = Sums[int]()
        for own in self:
            name = "ks_own_calls" + own.suffix
            if name not in self._loader.maps:
                continue
            calls, size = self._loader.maps[name], self._loader.value_bytes(name)
            for key in bpf.map_keys(calls, _KEY_BYTES):
                if (value := bpf.map_lookup(calls, key, size)) is not None:
                    found[_CALL.unpack_from(value)[_CLASS_AT]] += 1
        return found

    def detach(self) -> None:
        """Detaches all; what they counted stays."""
        for own in self:
            while own.attachments:  # entries first
                own.attachments.pop().close()

    def _close(self, own: OwnProbe) -> None:
        while own.attachments:
            own.attachments.pop().close()
        self._loader.unload(own.suffix)
