# SPDX-License-Identifier: Apache-2.0
"""The C text of one of the user's own probes, made of its profile's entry and of where its arguments lie.

Everything that is the same for all probes is in bpf/include/own.h and own_calls.h. What may change while a program runs (its
number, its limits) is in its configuration map; what the text has is the shape: arguments, conditions, program kind. So
probes that differ in name, attributes or limits only are one compiled object.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kernelspan_agent.probes.ktypes import Leaf, Resolved
from kernelspan_agent.probes.own.decisions import Decisions, mask
from kernelspan_agent.probes.own.layout import declarations, fits_on_stack
from kernelspan_agent.probes.own.lines import configured, end_as
from kernelspan_agent.probes.own.located import Located, Places
from kernelspan_agent.probes.own.sources import PLACE, ArgumentError, Raw, Source, is_event, of_program, of_task
from kernelspan_agent.probes.own.values import data_bytes, laid_out, number, read
from kernelspan_agent.resolve.arguments import Captured, Slot
from kernelspan_agent.resolve.judging import judged
from kernelspan_api.conditions import ArgumentType, NamespaceType
from kernelspan_api.userprobes import Argument, Mode, UserProbe

_LATER = {ArgumentType.STRING, ArgumentType.BYTES, ArgumentType.SOCK_ADDR}


@dataclass(frozen=True, slots=True)
class Generated:
    """A probe's text. `enters`, `exits`: names of programs, one for each source, in their order."""

    text: str
    enters: tuple[str, ...]
    exits: tuple[str, ...]
    captured: tuple[Captured, ...]

    @property
    def programs(self) -> tuple[str, ...]:
        """All of them."""
        return self.enters + self.exits


class Generator:
    """Makes the text of one probe. Raises ArgumentError where something in it cannot be had."""

    def __init__(
        self,
        probe: UserProbe,
        places: Places,
        host: Callable[[NamespaceType], int],
        resolve: Callable[[Leaf, str], Resolved],
    ) -> None:
        """`host`: the inode number of the host's namespace of a kind. `resolve`: the way from a value along a path."""
        self._probe, self._places, self._located = probe, places, Located(places, resolve)
        wanted = [(each.type, each.max_bytes) for each in probe.args]
        returned = probe.returns
        self._returns_data = returned is not None and data_bytes(returned.type, 0) > 0
        if returned is not None and self._returns_data:
            wanted.append((returned.type, 0))
        self._slots = laid_out(wanted)
        self._is_span = probe.mode is Mode.SPAN
        self._decisions = Decisions(probe, self._slots, places.enters[0], host)
        self._placed: set[int] = set()  # arguments of the program at hand that may be nowhere

    def generate(self) -> Generated:
        """The text with the names of its programs."""
        enters, exits = self._places.enters, self._places.exits
        parts = [declarations(self._slots, self._decisions.ends(), is_span=self._is_span), '#include "own_calls.h"\n']
        names = [_name("ks_own_enter", index, len(enters)) for index in range(len(enters))]
        ends = [_name("ks_own_exit", index, len(exits)) for index in range(len(exits))]
        parts += [self._enter(name, source) for name, source in zip(names, enters, strict=True)]
        parts += [self._exit(name, source) for name, source in zip(ends, exits, strict=True)]
        named = zip(self._slots, self._probe.args, strict=False)
        captured = [Captured(slot, argument.attribute) for slot, argument in named]
        if self._returns_data and self._probe.returns is not None:
            captured.append(Captured(self._slots[-1], self._probe.returns.attribute))
        return Generated("\n".join(parts), tuple(names), tuple(ends), tuple(captured))

    # --- programs -----------------------------------------------------------------------------------------------------

    def _begin(self, name: str, source: Source, *, returning: bool) -> list[str]:
        lines = [
            f"int {name}(void *ctx)",
            "{",
            "\tu64 id = ks_ids();",
            "\tu32 tgid = id >> 32;",
            "\tstruct ks_proc *p = ks_procs.lookup(&tgid);",
            "\tstruct ks_own_config *config;",
            "\tstruct ks_own_value *v;",
            "",
            "\tif (!p)",
            "\t\treturn 0;",
        ]
        if not returning:
            lines += [
                *configured(own_stack=True),
                "\tstruct ks_class *c = ks_own_wants(p, config->number);",
                "\tif (!c)",
                "\t\treturn 0;",
            ]
            if not of_task(source):
                lines += ["\tif (!ks_own_is_task()) {", "\t\tks_count(p->cls, KS_C_NOT_TASK);", "\t\treturn 0;", "\t}"]
        elif is_event(source) and not of_task(source):
            lines += ["\tif (!ks_own_is_task())", "\t\treturn 0; /* it ends nothing of who happens to be there */"]
        if not self._is_kept(source):
            return lines
        key = source.key(returning=returning)
        lines += [
            "\tstruct ks_own_key key = {};",
            f"\tkey.frame = {key.frame};",
            f"\tkey.thread = {key.thread};",
            f"\tkey.space = {key.space};",
        ]
        return lines

    def _is_kept(self, source: Source) -> bool:
        """Whether its calls are kept by their thread; else one is over when the program is."""
        return self._is_span or (source.is_user and not fits_on_stack(self._slots))

    def _place(self, source: Source) -> list[str]:
        """Where the call is made. A program in user context has no memory of its CPU: it makes numbers on its stack."""
        if self._is_kept(source):
            return [
                "\tv = ks_own_place(&key);",
                "\tif (!v) {",
                "\t\tks_count(p->cls, KS_C_INFLIGHT_FULL);",
                "\t\treturn 0;",
                "\t}",
            ]
        if source.is_user:
            return ["\tstruct ks_own_value here = {};", "\tv = &here;"]
        return ["\tv = ks_own_moment_here();", "\tif (!v)", "\t\treturn 0;"]

    def _over(self, source: Source, depth: int = 2) -> list[str]:
        """The call is kept no longer."""
        return ["\t" * depth + "ks_own_calls.delete(&key);"] if self._is_kept(source) else []

    def _put_out(self) -> list[str]:
        """A call that began at this place is over, though this one is not wanted."""
        return ["\t\tks_own_put_out(&key);"] if self._is_span else []

    def _enter(self, name: str, source: Source) -> str:
        raws = [self._located.raw(source, argument) for argument in self._probe.args]
        values = [number(argument.type, raw) for argument, raw in zip(self._probe.args, raws, strict=True)]
        lines = self._begin(name, source, returning=False)
        lines += [
            "\tks_count(p->cls, KS_C_SEEN);",
            "\tif (ks_own_throttled(config)) {",
            *self._put_out(),
            "\t\tks_count(p->cls, KS_C_OWN_THROTTLED);",
            "\t\treturn 0;",
            "\t}",
            "\tks_count(p->cls, KS_C_OWN_SEEN);",
        ]
        for index, (raw, value) in enumerate(zip(raws, values, strict=True)):
            if raw.place:
                lines.append(f"\tu64 p{index} = {raw.place};")
            lines.append(f"\tu64 a{index} = {value.replace(PLACE, f'p{index}')};")
        self._placed = {index for index, raw in enumerate(raws) if raw.place}
        early, late = self._decisions.of_arguments(self._placed)
        lines += ["\tu32 groups = " + (mask(early) if self._probe.match else "1") + ";"]
        if self._probe.match:
            if judged(self._probe).image:
                lines.append("\tgroups &= ks_own_verdict(p->start, config->number, KS_OWN_IMAGE | tgid);")
            lines += [
                "\tif (!groups) {",
                *self._put_out(),
                "\t\tks_count(p->cls, KS_C_FILTERED);",
                "\t\treturn 0;",
                "\t}",
            ]
        lines += [
            *self._place(source),
            "\tv->call.start = bpf_ktime_get_ns();",
            "\tv->call.image = p->start;",
            "\tv->call.epoch = config->epoch;",
            "\tv->call.tgid = tgid;",
            "\tv->call.tid = id;",
            "\tv->call.cls = p->cls;",
        ]
        reads = self._reads(source, raws)
        if not source.is_user and (not self._is_span or any(_USES_SCRATCH.search(line) for line in reads)):
            lines += self._scratch("KS_OWN_SCRATCH_ENTER" if self._is_span else "KS_OWN_SCRATCH_EXIT")
        lines += ["\t" + line for line in reads]
        for index in sorted(self._placed):
            lines += [f"\tif (!p{index})", f"\t\tv->arguments[{index}].state = KS_ARGUMENT_UNREADABLE;"]
        lines += self._note_unreadable()
        paths = judged(self._probe).arguments
        if paths:
            asked = [f"ks_own_verdict(v->arguments[{at}].value, config->number, {at})" for at in paths]
            lines += [
                f"\tif (!(groups &= {' & '.join(asked)})) {{",
                *self._over(source),
                "\t\tks_count(p->cls, KS_C_FILTERED);",
                "\t\treturn 0;",
                "\t}",
            ]
        if any(late):
            lines += [
                f"\tif (!v->call.again && !(groups &= {mask(late)})) {{",
                *self._over(source),
                "\t\tks_count(p->cls, KS_C_FILTERED);",
                "\t\treturn 0;",
                "\t}",
            ]
        lines.append("\tv->call.groups = groups;")
        if not self._is_span:
            lines += self._finish(source, instant=True)
        return "\n".join([*lines, "\treturn 0;", "}", ""])

    def _readable_later(self) -> list[Slot]:
        """Slots of what may not be in memory at a call's entry, and is when it returns, having been used."""
        return [slot for slot in self._slots[: len(self._probe.args)] if slot.type in _LATER] if self._is_span else []

    def _note_unreadable(self) -> list[str]:
        lines = ["\tv->call.again = 0;"]
        for slot in self._readable_later():
            arg = f"v->arguments[{slot.number}]"
            lines += [
                f"\tif ({arg}.state == KS_ARGUMENT_UNREADABLE && {arg}.value)",
                f"\t\tv->call.again |= {1 << slot.number};",
            ]
        return lines

    def _read_again(self, source: Source) -> list[str]:
        """At the return: what could not be read, and the conditions that waited for it."""
        slots = self._readable_later()
        if not slots:
            return []
        lines = ["\tif (v->call.again) {"]
        for slot in slots:
            arg = f"v->arguments[{slot.number}]"
            (statement,) = read(
                slot,
                Raw("", user=self._located.user(self._probe.args[slot.number])),
                f"{arg}.value",
                _nothing_follows,
                is_user=source.is_user,
            )
            lines += [f"\t\tif (v->call.again & {1 << slot.number})", f"\t\t\t{statement}"]
        _, late = self._decisions.of_arguments()
        if any(late):
            lines += [
                f"\t\tif (!(v->call.groups &= {mask(late)})) {{",
                "\t\t\tks_count(v->call.cls, KS_C_FILTERED);",
                "\t\t\tks_own_calls.delete(&key);",
                "\t\t\treturn 0;",
                "\t\t}",
            ]
        return [*lines, "\t}"]

    def _reads(self, source: Source, raws: list[Raw]) -> list[str]:
        lines: list[str] = []
        for index, (slot, raw) in enumerate(zip(self._slots, raws, strict=False)):
            argument = self._probe.args[index]

            def following(distance: int, argument: Argument = argument) -> str:
                if argument.index is None:
                    raise ArgumentError(f"{argument.type.value} takes two arguments: give the index of the first")
                found = source.argument(argument.index + distance)
                if found.inline:
                    raise ArgumentError(
                        f"{argument.type.value} takes two arguments: behind it lies no number, but an array"
                    )
                return found.c

            lines += read(slot, raw, f"a{index}", following, is_user=source.is_user)
        return lines

    def _exit(self, name: str, source: Source) -> str:
        lines = self._begin(name, source, returning=True)
        lines += [
            "\tv = ks_own_calls.lookup(&key);",
            "\tif (!v)",
            "\t\treturn 0;",
            "\tKS_OPAQUE(v);",
            *configured(own_stack=source.is_user or is_event(source)),
            "\tif (v->call.epoch != config->epoch) {",
            "\t\tks_count(v->call.cls, KS_C_REPLACED); /* the probe was off for a while */",
            "\t\tks_own_calls.delete(&key);",
            "\t\treturn 0;",
            "\t}",
            "\tif (v->call.image != p->start) {",
            "\t\tks_count(v->call.cls, KS_C_TARGET_GONE); /* exec came between */",
            "\t\tks_own_calls.delete(&key);",
            "\t\treturn 0;",
            "\t}",
        ]
        lines += self._read_again(source)
        return "\n".join([*lines, *self._finish(source, instant=False), "\treturn 0;", "}", ""])

    def _finish(self, source: Source, *, instant: bool) -> list[str]:
        """From a call whose arguments are read to its operation."""
        lines = ["\tu64 now = v->call.start;"]
        if not instant:
            lines = [
                "\tu32 cls = v->call.cls;",
                "\tstruct ks_class *c = ks_classes.lookup(&cls);",
                "\tKS_OPAQUE(c);",
                "\tif (!c)",
                "\t\treturn 0;",
                "\tu64 now = bpf_ktime_get_ns();",
            ]
        filters = []
        if not instant:
            if self._decisions.needs_result:
                returned = self._probe.returns.type if self._probe.returns else ArgumentType.INT64
                if returned in (ArgumentType.FILE, ArgumentType.PATH):
                    raise ArgumentError(f"a returned {returned.value} cannot be read")
                lines.append(f"\tu64 result = {number(returned, Raw(source.result()))};")
            lines.append("\tif (now - v->call.start < config->min_duration_ns)")
            lines += end_as("KS_C_FILTERED")
            filters = [self._decisions.of_result(match) for match in self._probe.match]
            if any(filters):
                lines.append(f"\tif (!(v->call.groups &= {mask(filters)}))")
                lines += end_as("KS_C_FILTERED")
        lines += [
            "\tif (!ks_own_within_limits(config, c, p, v, now)) {",
            *self._over(source),
            "\t\treturn 0;",
            "\t}",
        ]
        if not instant and self._returns_data:
            raw = Raw(source.result(), user=of_program(source))
            reads = read(self._slots[-1], raw, "result", _nothing_follows, is_user=source.is_user)
            lines += ["\t" + line for line in reads]
        lines.append("\tu64 arguments = ks_own_send(v, config->number, now);")
        result = "result" if not instant and self._decisions.needs_result else "0"
        flags = (
            " | ".join((["KS_OP_INSTANT"] if instant else []) + (["KS_OP_NO_RESULT"] if result == "0" else [])) or "0"
        )
        if source.is_user:
            lines += [
                "\tstruct ks_op op;",
                "\tks_own_operation(&op, &v->call, config->number, arguments, now);",
                f"\top.ret = {result};",
                "\t*(u32 *)op.local_address = v->call.groups;",
                f"\top.flags |= {flags};",
                "\top.frame_state = c->max_depth ? KS_FRAMES_NO_TRUE_WALK : KS_FRAMES_NONE;",
                *self._over(source, 1),
                "\tks_count(op.cls, ks_ring.ringbuf_output(&op, sizeof(op), ks_wake()) ? KS_C_RING_FULL : KS_C_SENT);",
            ]
            return lines
        if not instant:
            lines += self._scratch("KS_OWN_SCRATCH_EXIT")
        lines += [
            "\tks_own_operation(&s->op, &v->call, config->number, arguments, now);",
            f"\ts->op.ret = {result};",
            "\t*(u32 *)s->op.local_address = v->call.groups;",
            f"\ts->op.flags |= {flags};",
            "\ts->proc_start = v->call.image;",
            "\ts->stash = 0;",
            *self._over(source, 1),
            "\tif (c->max_depth && ks_in_system_call()) {",
            "\t\tks_walk(ctx, s, c);",
            "\t} else {",
            "\t\ts->op.frame_state = c->max_depth ? KS_FRAMES_NO_TRUE_WALK : KS_FRAMES_NONE;",
            "\t\tks_finish(s);",
            "\t}",
        ]
        return lines

    @staticmethod
    def _scratch(which: str) -> list[str]:
        return [
            f"\tstruct ks_scratch *s = ks_scratch({which});",
            "\tif (!s)",
            "\t\treturn 0;",
            "\ts->op.cls = v->call.cls;",
            "\ts->op.tgid = v->call.tgid;",
            "\ts->op.tid = v->call.tid;",
        ]


def _nothing_follows(_distance: int) -> str:
    raise ArgumentError("a Go type cannot be returned: its parts lie in several registers")


def _name(base: str, index: int, count: int) -> str:
    return base if count == 1 else f"{base}{index}"


_USES_SCRATCH = re.compile(r"\((s),|ks_path_id\(s")
