# SPDX-License-Identifier: Apache-2.0
"""The user's own probes of one session: each loaded and attached by itself, so that one that fails takes no other with it.

A probe has a number, by which match classes want it and its operations are told apart. The same probe of two profiles, alike
in everything, is one.
"""

from __future__ import annotations

import base64
import logging
import struct
import threading
import time
from collections import Counter as Sums
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kernelspan_agent.errors import BudgetError, KernelspanError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.constants import EVERY_HIT, of_hits
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.own import limits
from kernelspan_agent.probes.own.probe import OwnProbe, Part
from kernelspan_agent.probes.own.sweep import KEY, Calls, Sweeper, call_of
from kernelspan_agent.ring.records import MAX_OWN_PROBES
from kernelspan_agent.runtimes.registry import Runtime
from kernelspan_api.plan import key_of
from kernelspan_api.userprobes import RateScope, UserProbe

if TYPE_CHECKING:
    from kernelspan_agent.probes.own.codegen import Generated
    from kernelspan_agent.probes.own.machine import Plan
    from kernelspan_agent.probes.own.prepare import Prepared

SCRATCHES = "ks_scratches."  # the loader's name for those of own probes
SCRATCH_ENTRIES = 2  # KS_OWN_SCRATCH_* in bpf/include/own.h
_CONFIG = struct.Struct("<QQQIIII8x")
MAX_PARTS = 16  # of one probe
REST_SECONDS = 60.0  # of a number that was given back
_QUESTION = struct.Struct("<QII")  # struct ks_own_question
_OWN_MAPS = ("ks_own_calls", "ks_own_blank", "ks_own_moment", "ks_own_config", "ks_own_rates", "ks_own_nothing")
# Walkers and scratches that programs of one kind share, of which no two run on a CPU at once: the kernel enters none of
# these while another is at work (bpf_prog_active), and what comes in an interrupt touches no scratch.
_SHARED = {bpf.PROG_KPROBE: ".k", bpf.PROG_TRACEPOINT: ".t", bpf.PROG_RAW_TRACEPOINT: ".r"}
UNNUMBERED = -1  # of a probe that there was no number left for
_log = logging.getLogger(__name__)
_SCOPES = {RateScope.PROCESS: 0, RateScope.POD: 1, RateScope.NODE: 2}


class OwnProbes:
    """Those of one session, for one thread; any may read them, and ask what is `in_flight`."""

    def __init__(self, loader: Loader, array: str, process_start: Callable[[int], int | None], cpus: int) -> None:
        """`array`: the program array that walkers are called by. `process_start`: see Sweeper. `cpus`: values of a per-CPU
        map for one key.
        """
        self.sweeper = Sweeper(process_start)
        self.cut_off = Sums[int]()  # by class: calls under way when their probe was taken away
        self._loader, self._array, self._cpus = loader, array, cpus
        self._walkers: dict[str, tuple[Runtime, Any]] = {}  # each with its built module
        self._probes: dict[bytes, OwnProbe] = {}
        self._removed: list[OwnProbe] = []  # detached, and not given back yet
        self._rest: dict[int, float] = {}  # numbers that were given back, and when
        self._reading = threading.Lock()  # of maps that `unload` would close: their descriptors would be other maps'
        self._sets: dict[str, Load] = {}  # how walkers are loaded, by their suffix

    def add_walker(self, runtime: Runtime, module: Mapping[str, Any]) -> None:
        """From now on processes of this runtime can be walked, wherever a probe's program may walk. Raises MachineError."""
        self._walkers[runtime.name] = runtime, module
        for like in self._sets.values():
            self._load_walker(like, runtime, module)

    def _load_walker(self, like: Load, runtime: Runtime, module: Mapping[str, Any]) -> None:
        self._loader.load(replace(like, module=module))
        for place, program in runtime.places.items():
            self._loader.link(self._array + like.suffix, place, program + like.suffix)

    def __iter__(self) -> Iterator[OwnProbe]:
        return iter(self._probes.values())

    def get(self, spec: UserProbe) -> OwnProbe | None:
        """The probe of that spec; None: it was never asked for."""
        return self._probes.get(key_of(spec))

    def mask(self, specs: Sequence[UserProbe]) -> int:
        """Bits by the numbers of these: what is not attached is not seen, and may come to be when the bits are set already."""
        found = (self.get(spec) for spec in specs)
        return sum(1 << own.number for own in found if own is not None and own.number != UNNUMBERED)

    def open(self, prepared: Sequence[Prepared]) -> None:
        """Loads and attaches; what cannot be says why (`OwnProbe.problem`)."""
        for each in prepared:
            key = key_of(each.spec)
            if key in self._probes:
                each.close()
                continue
            own = self._probes[key] = OwnProbe(each.spec, self._free())
            if own.number == UNNUMBERED:
                message = f"a node has at most {MAX_OWN_PROBES} own probes at once"
                own.problem = BudgetError(
                    message, reason="TooManyProbes", hint="let profiles share probes, or have fewer"
                )
                each.close()
                continue
            own.waits = each.plan is None and each.problem is None
            self.attach(own, each)

    def attach(self, own: OwnProbe, prepared: Prepared) -> None:
        """Loads what is not loaded, and attaches, unless the guard has it off. `own.problem` says why not."""
        if prepared.problem is not None:
            own.problem = prepared.problem
            prepared.close()
            _log.info("probe.failed probe=%s reason=%s message=%s", own.spec.name, own.problem.reason, own.problem)
            return
        if prepared.plan is None or prepared.generated is None:
            return
        plan, generated = prepared.plan, prepared.generated
        own.mechanism, own.captured = plan.mechanism, generated.captured
        part = next((each for each in own.parts if each.generated.text == generated.text), None)
        try:
            if part is None:
                part = self._loaded(own, prepared, plan, generated)
            part.plans.append(plan)
            if not own.off:
                self._attach(own, part, plan)
            places = sum(len(each.attachments) for each in own.parts)
            _log.info("probe.attached probe=%s mechanism=%s places=%d", own.spec.name, own.mechanism, places)
        except KernelspanError as error:
            _log.info("probe.failed probe=%s reason=%s message=%s", own.spec.name, error.reason, error)
            own.problem = None if own.is_attached else error  # elsewhere it may be seen
            plan.close()
            if part is not None and plan in part.plans:
                part.plans.remove(plan)
                if not part.plans:
                    self._unload(own, part)

    # --- the guard ----------------------------------------------------------------------------------------------------

    def take_off(self, own: OwnProbe) -> list[Attachment]:
        """Makes a probe one that is off: calls that have begun count as never seen to end. Close what this gives, in its
        order, before it is put back: to detach takes the kernel a while.
        """
        own.off = True
        own.epoch = own.epoch + 1 & 0xFFFFFFFF
        self.configure(own)
        own.look_for_missed(self._loader.programs)
        own.missed.close()
        found = [each for part in own.parts for each in reversed(part.attachments)]  # entries first
        for part in own.parts:
            part.attachments.clear()
        return found

    def put_back(self, own: OwnProbe) -> None:
        """Attaches a probe that was taken off. `own.problem` says why not."""
        own.off = False
        for part in own.parts:
            for plan in part.plans:
                try:
                    self._attach(own, part, plan)
                except KernelspanError as error:
                    own.problem = error

    def remove(self, own: OwnProbe) -> None:
        """Detaches a probe. What it has is given back by `reap`, and its number then."""
        if self._probes.get(key_of(own.spec)) is own:
            del self._probes[key_of(own.spec)]
            self._removed.append(own)
        self._detach(own)
        _log.info("probe.detached probe=%s", own.spec.name)

    def reap(self) -> None:
        """Gives back what removed probes have, long enough after for no program to run any more."""
        while self._removed:
            own = self._removed.pop()
            for part in list(own.parts):
                self._unload(own, part)
            self._rest[own.number] = time.monotonic()

    def _unload(self, own: OwnProbe, part: Part) -> None:
        own.parts.remove(part)
        for calls, size, _ in self._calls(part.suffix):  # nobody will see how these end
            for key in bpf.map_keys(calls, KEY.size):
                if (value := bpf.map_lookup(calls, key, size)) is not None:
                    self.cut_off[call_of(key, value).cls] += 1
        with self._reading:
            self._loader.unload(part.suffix)
        if part.walkers == part.suffix:  # nobody else's
            self._sets.pop(part.walkers, None)

    def _free(self) -> int:
        """A number that means nothing: what still bears one that was given back is read before it means something else."""
        now = time.monotonic()
        self._rest = {number: since for number, since in self._rest.items() if now - since < REST_SECONDS}
        taken = {own.number for own in (*self, *self._removed)} | self._rest.keys()
        number = next((each for each in range(MAX_OWN_PROBES) if each not in taken), UNNUMBERED)
        self._forget_verdicts(number)
        return number

    def _forget_verdicts(self, number: int) -> None:
        verdicts = self._loader.maps.get("ks_own_verdicts")
        if verdicts is not None:
            for key in bpf.map_keys(verdicts, _QUESTION.size):
                if _QUESTION.unpack(key)[1] == number:
                    bpf.map_delete(verdicts, key)

    def _loaded(self, own: OwnProbe, prepared: Prepared, plan: Plan, generated: Generated) -> Part:
        source = plan.places.enters[0]
        if len(own.parts) >= MAX_PARTS:
            raise BudgetError(f"{own.spec.name}: files pass its arguments in more than {MAX_PARTS} ways")
        suffix = f".{own.number}" + (f"x{len(own.parts)}" if own.parts else "")
        ends = plan.exit if generated.exits else plan.entry  # where a walk begins
        targets = dict.fromkeys(generated.enters, plan.entry)
        walkers = (
            "" if source.is_user else (plan.alone and suffix) or _SHARED[source.kind] + str(ends.attach_type or "")
        )
        maps = {name: name + suffix for name in _OWN_MAPS}
        maps |= {name: name + (walkers or suffix) for name in ("ks_scratches", self._array)}
        load = Load(prepared.module, source.kind, suffix, maps, ends, targets)
        part = Part(suffix, source.kind, generated, walkers)
        part.map_bytes = self._require_limits(own.spec.name, load)
        own.parts.append(part)
        try:
            self._loader.load(load)
            if walkers and walkers not in self._sets:
                like = replace(load, module={}, suffix=walkers, targets=None)
                for runtime, module in self._walkers.values():
                    self._load_walker(like, runtime, module)
                self._sets[walkers] = like
            self.configure(own)
        except BaseException:
            self._unload(own, part)
            raise
        return part

    def _require_limits(self, name: str, load: Load) -> int:
        """What the maps of a module take that are its alone. Raises BudgetError: they, or its programs, are beyond a limit."""
        programs = load.module["programs"].items()
        limits.require_programs(name, {each: base64.b64decode(made["instructions"]) for each, made in programs})
        shapes = []
        for each, shape in load.module["maps"].items():
            if load.map_name(each).endswith(load.suffix):
                few = {"entries": SCRATCH_ENTRIES} if f"{each}." == SCRATCHES else {}
                shapes.append({**shape, **few})
        wanted = limits.map_bytes(shapes, self._cpus)
        limits.require_room(name, wanted, sum(part.map_bytes for own in self for part in own.parts))
        return wanted

    def _attach(self, own: OwnProbe, part: Part, plan: Plan) -> None:
        before = len(part.attachments)
        try:
            # returns first: an entry without its return would stay in flight
            for names, attaches in ((part.generated.exits, plan.exits), (part.generated.enters, plan.enters)):
                for name, attach in zip(names, attaches, strict=True):
                    part.attachments += attach(self._loader.programs[name + part.suffix])
            own.was_attached = True
        except BaseException:
            while len(part.attachments) > before:
                part.attachments.pop().close()
            raise

    def configure(self, own: OwnProbe) -> None:
        """Tells the kernel a probe's limits."""
        limit = own.spec.rate_limit
        value = _CONFIG.pack(
            own.spec.min_duration_microseconds * 1000,
            limit.interval_ns if limit else 0,
            limit.burst_ns if limit else 0,
            own.number,
            of_hits(own.keep),
            _SCOPES[limit.scope] if limit else 0,
            own.epoch,
        )
        for part in own.parts:
            bpf.map_update(self._loader.maps["ks_own_config" + part.suffix], bytes(4), value)

    def tell(self, about: int, number: int, of: int, mask: int) -> None:
        """Tells the kernel which conditions of a probe can hold: see bpf/include/own.h."""
        if "ks_own_verdicts" in self._loader.maps:
            question = _QUESTION.pack(about, number, of)
            bpf.map_update(self._loader.maps["ks_own_verdicts"], question, struct.pack("<I", mask & EVERY_HIT))

    def in_flight(self) -> Sums[int]:
        """Calls that have begun and not ended, by class."""
        found = Sums[int]()
        with self._reading:
            for calls, size, _ in self._calls():
                for key in bpf.map_keys(calls, KEY.size):
                    if (value := bpf.map_lookup(calls, key, size)) is not None:
                        found[call_of(key, value).cls] += 1
        return found

    def _calls(self, suffix: str = "") -> list[Calls]:
        """Maps of calls that have begun; with `suffix` of one part."""
        loader, prefix = self._loader, "ks_own_calls."
        names = [
            name
            for name in list(loader.maps)
            if name.startswith(prefix) and (not suffix or name == prefix[:-1] + suffix)
        ]
        return [Calls(loader.maps[name], loader.value_bytes(name), loader.room(name)) for name in names]

    def sweep(self, now: float | None = None) -> None:
        """Takes out calls that can never end, where it is time for it, or (None) all of them at once."""
        if now is None:
            self.sweeper.sweep(self._calls(), 1 << 32, 0)
        elif self.sweeper.tick(now, self._calls()):
            for own in self:
                own.look_for_missed(self._loader.programs)

    def detach(self) -> None:
        """Detaches all; what they counted stays."""
        for own in self:
            self._detach(own)

    def _detach(self, own: OwnProbe) -> None:
        own.look_for_missed(self._loader.programs)
        own.missed.close()
        for part in own.parts:
            while part.attachments:  # entries first
                part.attachments.pop().close()
            while part.plans:
                part.plans.pop().close()
