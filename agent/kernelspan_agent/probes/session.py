# SPDX-License-Identifier: Apache-2.0
"""The agent's half of the kernel's maps: what is wanted, whom it concerns, and what was counted.

One session is one set of maps and programs. Only the modules that the plan names are built, loaded and attached.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections import Counter as Sums
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, classvalue, constants, mechanisms
from kernelspan_agent.probes.attach import raw_tracepoint
from kernelspan_agent.probes.build import Built, Module, build
from kernelspan_agent.probes.constants import Counter
from kernelspan_agent.probes.cpus import possible_cpus
from kernelspan_agent.probes.loader import Loader
from kernelspan_agent.probes.loads import Loads
from kernelspan_agent.probes.modules import REQUESTS_MODULE, module_of, modules_of, walkers_of
from kernelspan_agent.probes.own.attached import SCRATCH_ENTRIES, SCRATCHES, OwnProbes
from kernelspan_agent.probes.procs import Procs
from kernelspan_agent.probes.ready import Ready, with_own
from kernelspan_agent.probes.source import CORE_PROGRAMS, REQUESTS, walkers
from kernelspan_agent.resolve.kernel import Image
from kernelspan_agent.ring.records import OP_SIZE, OPERATION
from kernelspan_agent.ring.size import ring_bytes as ring_bytes_of
from kernelspan_agent.runtimes.registry import WORDS, DetectedRuntime, Runtime
from kernelspan_agent.selftrace import span
from kernelspan_api.operations import BY_NAME, Group
from kernelspan_api.plan import Wanted, together

_RUNTIME = struct.Struct(f"<QQIHH{WORDS}Q")
_NO_WORDS = (0,) * WORDS
_NO_RUNTIME = bytes(_RUNTIME.size)
_CLASSES = {"type": bpf.MAP_TYPES["array"], "key": 4, "entries": constants.MAX_CLASSES, "flags": 0}
_CALL_OP = slice(constants.CALL_OP_AT, constants.CALL_OP_AT + 2)  # of a struct ks_call
_CALL_CLASS = slice(constants.CALL_CLASS_AT, constants.CALL_CLASS_AT + 2)
_CLOSE = BY_NAME[Group.NETWORK, "Close"].number
_U64 = (1 << 64) - 1
_log = logging.getLogger(__name__)


class Session:
    """Loaded programs with their maps. Threads may share one."""

    def __init__(self, loader: Loader, built: Built, wanted: Wanted, ring_bytes: int, loads: Loads) -> None:
        self._loader, self._loads = loader, loads
        self.mechanism = loads.mechanism
        self.built = built
        self._defines = {
            name: built.defines[name] for name in constants.defines(ring_bytes=0, watch_exec=False, raw=False)
        }
        self.ring_bytes = ring_bytes
        self._cpus = possible_cpus()
        self._layouts: dict[tuple[object, bytes], int] = {}
        self._walking: set[int] = set()  # numbers of runtimes
        self.called_for: set[int] = set()  # those whose walker is missing: see Walkers
        self._lock = threading.Lock()
        self.attached: list[str] = []
        self.wanted = wanted  # what is attached
        self._chain = mechanisms.chain_of(wanted)
        for name, size in (
            ("ks_classes", classvalue.VALUE.size),
            ("ks_tat", 8),
        ):  # own probes may come later, or none be loaded
            loader.make_map(name, {**_CLASSES, "value": size})
        self.procs = Procs(loader.maps["ks_procs"])
        self.own = OwnProbes(loader, self.mechanism.walkers, self.process_start, self._cpus)

    @classmethod
    def open(
        cls,
        wanted: Wanted,
        environ: Mapping[str, str],
        *,
        ring_bytes: int = 0,
        watch_exec: bool = False,
        mechanism: mechanisms.Mechanism | None = None,
        ready: Ready | None = None,
    ) -> Self:
        """Builds, loads and attaches what `wanted` names. Raises MachineError; nothing is left behind then.

        `ready`: what `prepare` has made of the same. `ring_bytes`: 0 for what the environment says. Where the kernel refuses its own
        choice, the next one is taken.
        """
        ring_bytes = ring_bytes or ring_bytes_of(environ)
        chosen = mechanism or (ready.mechanism if ready else None) or mechanisms.choose(wanted)
        if ready is None:
            ready = cls.prepare(wanted, environ, ring_bytes=ring_bytes, watch_exec=watch_exec, mechanism=chosen)
        try:
            return cls._open(wanted, ready, ring_bytes, chosen)
        except BaseException as error:
            ready.close()
            if mechanism is not None or not isinstance(error, MachineError):
                raise
            next_one = mechanisms.refused(chosen, error)
            _log.warning("mechanism.refused name=%s reason=%s message=%s", chosen.name, error.reason, error)
        return cls.open(wanted, environ, ring_bytes=ring_bytes, watch_exec=watch_exec, mechanism=next_one)

    @classmethod
    def _open(cls, wanted: Wanted, ready: Ready, ring_bytes: int, mechanism: mechanisms.Mechanism) -> Self:
        built, loads = ready.built, Loads(mechanism, wanted)
        loader = Loader({"ks_ring": ring_bytes, SCRATCHES: SCRATCH_ENTRIES, **loads.sizes})
        try:
            with span("agent.load", modules=len(built.modules)):
                loader.load(*loads.of(built.modules))
            session = cls(loader, built, wanted, ring_bytes, loads)
            with span("agent.attach", mechanism=mechanism.name):
                session._attach(wanted)
                for name, module in built.modules.items():
                    if name in walkers():
                        session.own.add_walker(walkers()[name], module)
                session.own.open(ready.own)
        except BaseException:
            loader.close()
            raise
        return session

    @staticmethod
    def prepare(
        wanted: Wanted,
        environ: Mapping[str, str],
        *,
        ring_bytes: int = 0,
        watch_exec: bool = False,
        mechanism: mechanisms.Mechanism | None = None,
    ) -> Ready:
        """Compiles what `open` needs. Takes seconds, and may be done in another thread. Raises MachineError."""
        ring_bytes = ring_bytes or ring_bytes_of(environ)
        chosen = mechanism or mechanisms.choose(wanted)
        defines = constants.defines(
            ring_bytes=ring_bytes, watch_exec=watch_exec, executables=wanted.by_executable, **chosen.flags
        )
        with span("agent.compile"):
            ready = with_own(build(modules_of(wanted), defines, environ), wanted.probes, defines, environ)
        return replace(ready, mechanism=chosen)

    def _attach(self, wanted: Wanted) -> None:
        if wanted.max_depth:
            for runtime in walkers_of(wanted):
                self._link_walker(runtime)
        if wanted.requests:
            self._loads.link_requests(self._loader)
        for program, event in CORE_PROGRAMS.items():
            self._loader.keep(raw_tracepoint(event, self._loader.programs[program]))
            self.attached.append(event)
        loader, seats = self._loader, self._loads.seats
        for attachment in mechanisms.attach(self.mechanism, wanted, loader.programs, loader.link, seats):
            self._loader.keep(attachment)
            self.attached.append(attachment.name)

    # --- more than at first -------------------------------------------------------------------------------------------

    def _link_walker(self, runtime: Runtime) -> None:
        self._loads.link_walker(self._loader, runtime)
        self._walking.add(runtime.number)

    def walks(self, number: int) -> bool:
        """Whether a runtime's processes can be walked; else its walker is called for."""
        if number in self._walking or not self.wanted.max_depth:
            return True
        self.called_for.add(number)
        return False

    def build_walker(self, runtime: Runtime, environ: Mapping[str, str]) -> Built:
        """Compiles a runtime's walker. Takes seconds, and may be done in another thread. Raises MachineError."""
        return build([Module(runtime.name, runtime.walker.programs)], self._defines, environ)

    def add_walker(self, runtime: Runtime, built: Built) -> None:
        """Loads a runtime's walker: its processes can be walked from now on. Raises MachineError: all is as it was."""
        self._loader.load(*self._loads.of(built.modules))
        self._link_walker(runtime)
        self.own.add_walker(runtime, built.modules[runtime.name])

    def can_see(self, wanted: Wanted) -> bool:
        """Whether `extend` can make this session see what is wanted; else it takes another one."""
        if wanted.max_depth and not self.wanted.max_depth:
            return False  # the walkers are part of the programs
        return self.mechanism.raw or wanted.operations <= self.wanted.operations

    def lacks(self, wanted: Wanted) -> bool:
        """Whether something is wanted that is not attached, or stacks that nobody reads."""
        stacks = bool(wanted.max_depth and not self.wanted.max_depth)
        own = any(self.own.get(probe) is None for probe in wanted.probes)
        requests = bool(wanted.requests and not self.wanted.requests)
        return stacks or own or requests or not wanted.operations <= self.wanted.operations

    def build_more(self, wanted: Wanted, environ: Mapping[str, str]) -> Ready:
        """Compiles what `extend` needs. Takes seconds, and may be done in another thread. Raises MachineError."""
        missing = [group for group in wanted.groups if group not in self.wanted.groups]
        modules = [module_of(group) for group in missing]
        if wanted.requests and not self.wanted.requests:
            modules.append(REQUESTS_MODULE)
        built = build(modules, self._defines, environ)
        probes = [probe for probe in wanted.probes if self.own.get(probe) is None]
        return with_own(built, probes, self._defines, environ)

    def extend(self, wanted: Wanted, more: Ready) -> None:
        """Attaches what is wanted and not attached; what is goes on. Raises MachineError: all is as it was."""
        self._loader.load(*self._loads.of(more.built.modules))
        if REQUESTS in more.built.modules:
            self._loads.link_requests(self._loader)
        if self.mechanism.raw:  # else nothing but own probes is new: see can_see
            for each in mechanisms.extend(wanted, self.wanted, self._chain, self._loader.programs, self._loader.link):
                self._loader.keep(each)
                self.attached.append(each.name)
        self.own.open(more.own)
        self.wanted = together([self.wanted, wanted])

    @property
    def defines(self) -> Mapping[str, int]:
        """The constants that everything of this session is compiled with."""
        return self._defines

    @property
    def ring_fd(self) -> int:
        """The ring buffer's map."""
        return self._loader.maps["ks_ring"]

    def set_class(self, number: int, wanted: Wanted, *, keep: float = 1.0, anew: bool = True) -> None:
        """Makes match class `number` want what `wanted` says: see classvalue. `anew`: it is another set of profiles now."""
        value = classvalue.value_of(wanted, self.own.mask(wanted.probes), keep)
        key = struct.pack("<I", number)
        bpf.map_update(self._loader.maps["ks_classes"], key, value)
        if anew:  # how far ahead of its limit the number's last set was
            bpf.map_update(self._loader.maps["ks_tat"], key, bytes(8))

    def process_start(self, tgid: int) -> int | None:
        """Which image of a process the kernel traces now; None: none."""
        return self.procs.start(tgid)

    def traced(self) -> set[int]:
        """The processes that the kernel traces now, by tgid."""
        return self.procs.all()

    def set_runtime(
        self, tgid: int, start_ns: int, found: DetectedRuntime | None, flags: int, words: tuple[int, ...] = ()
    ) -> None:
        """Tells the kernel what runs a process; None: nothing that it can walk. `flags`, `words`: the runtime's own."""
        if not self.wanted.max_depth:
            return  # stacks: None loads no walker
        if self.process_start(tgid) != start_ns:
            return  # another image runs by now, and the kernel may know its runtime already
        layout_id = self.layout_id(found.layout) if found is not None else None
        key = struct.pack("<I", tgid)
        if found is None or layout_id is None:  # or more kinds of interpreters than the kernel has room for: no frames
            value = _RUNTIME.pack(start_ns, 0, 0, 0, 0, *_NO_WORDS)
        else:
            known = (start_ns, found.address, layout_id, found.number)
            was = _RUNTIME.unpack(bpf.map_lookup(self._loader.maps["ks_runtimes"], key, _RUNTIME.size) or _NO_RUNTIME)
            flags |= was[4] if was[:4] == known else 0  # that the kernel has set itself
            value = _RUNTIME.pack(*known, flags, *(words or _NO_WORDS))
        bpf.map_update(self._loader.maps["ks_runtimes"], key, value)

    def has_table(self, name: str) -> bool:
        """See registry.Tables."""
        return name in self._loader.maps

    def fill_table(self, name: str, first: int, values: np.ndarray) -> None:
        """The same. Raises OSError."""
        keys = np.arange(first, first + len(values), dtype="<u4")
        bpf.map_update_many(self._loader.maps[name], keys.tobytes(), values.tobytes(), len(values))

    def know_image(self, image: Image, *, number: int, layout: np.ndarray) -> None:
        """Lets the kernel know the runtime of a file by itself: see bpf/include/image.h."""
        layout_id = self.layout_id(layout)
        if layout_id is None or "ks_images" not in self._loader.maps:
            return
        key = struct.pack("<QQQQ", image.inode, image.size_bytes, image.mtime & _U64, image.device)
        value = struct.pack("<qQII", image.delta, image.offset & _U64, layout_id, number)
        bpf.map_update(self._loader.maps["ks_images"], key, value)

    def layout_id(self, layout: np.ndarray) -> int | None:
        """The kernel's number of a layout; None: no room for another (rows are never given away), or no walker at all."""
        if "ks_layouts" not in self._loader.maps:
            return None
        row = layout.tobytes().ljust(constants.LAYOUT_BYTES, b"\0")
        key = (layout.dtype.names, row)
        with self._lock:
            number = self._layouts.get(key)
            if number is None and len(self._layouts) < constants.MAX_LAYOUTS:
                number = self._layouts[key] = len(self._layouts)
                bpf.map_update(self._loader.maps["ks_layouts"], struct.pack("<I", number), row)
            return number

    def reject_file(self, file: int, path: int, match_class: int) -> None:
        """Filters operations of a class on this file in the kernel from now on."""
        bpf.map_update(self._loader.maps["ks_verdicts"], struct.pack("<Q", mix(mix(file, path), match_class)), b"\1")

    def forget_verdicts(self) -> None:
        """What was rejected is asked again: it was for other profiles."""
        if "ks_verdicts" not in self._loader.maps:
            return
        for key in bpf.map_keys(self._loader.maps["ks_verdicts"], 8):
            bpf.map_delete(self._loader.maps["ks_verdicts"], key)

    def forget_ids(self, *, stacks: list[int] | None = None, paths: list[int] | None = None) -> None:
        """Makes the kernel send these again the next time it sees them."""
        for name, ids in (("ks_stacks", stacks or []), ("ks_paths", paths or [])):
            for number in ids:
                bpf.map_delete(self._loader.maps[name], struct.pack("<Q", number))
        for number in paths or []:
            place, told = struct.pack("<I", number % constants.TOLD), self._loader.maps["ks_told_paths"]
            if bpf.map_lookup(told, place, 8) == struct.pack("<Q", number):
                bpf.map_update(told, place, bytes(8))

    def counts(self, match_class: int) -> dict[Counter, int]:
        """All of what `count` tells."""
        return dict(zip(Counter, self.count(match_class, *Counter), strict=True))

    def count(self, match_class: int, *counters: Counter) -> list[int]:
        """Some of what the programs counted, summed over CPUs."""
        found = []
        for counter in counters:
            key = struct.pack("<I", match_class * constants.COUNTERS + counter)
            value = bpf.map_lookup(self._loader.maps["ks_counts"], key, 8 * self._cpus)
            by_programs = sum(struct.unpack(f"<{self._cpus}Q", value)) if value else 0
            found.append(by_programs + self.own.sweeper.counted(match_class, counter))
        return found

    def lost_processes(self) -> int:
        """How many records of processes did not fit into the ring."""
        return self.count(0, Counter.PROCESS_LOST)[0]

    def bytes_lost(self) -> int:
        """Of how many calls the bytes that they moved did not fit into the ring, whoever wanted them."""
        return sum(self.count(number, Counter.BYTES_LOST)[0] for number in range(constants.MAX_CLASSES))

    def in_flight(self) -> Sums[int]:
        """Operations that began and have not ended, by class."""
        maps, found = self._loader.maps, Sums[int]()
        size = self._loader.value_bytes("ks_calls")
        for keys, name in (("ks_aside", "ks_aside"), ("ks_taken", "ks_calls"), ("ks_more_calls", "ks_more_calls")):
            for key in bpf.map_keys(maps[keys], 4):
                call = bpf.map_lookup(maps[name], key, size)
                if call is not None and any(call[_CALL_OP]):
                    found[int.from_bytes(call[_CALL_CLASS], "little")] += 1
        for key in bpf.map_keys(maps["ks_stash"], 4):
            kept = bpf.map_lookup(maps["ks_stash"], key, OP_SIZE)
            if kept:
                row = np.frombuffer(kept, OPERATION, 1)[0]
                if int(row["op"]) != _CLOSE:  # what a close finds at its entry is kept besides its call
                    found[int(row["cls"])] += 1
        return found + self.own.in_flight()

    def programs(self) -> dict[str, dict[str, int]]:
        """Name to bpf.prog_info."""
        return {name: bpf.prog_info(fd) for name, fd in dict(self._loader.programs).items()}

    def detach(self) -> None:
        """Nothing is traced any more; what was counted can still be read."""
        self.own.detach()
        self._loader.detach()

    def close(self) -> None:
        """Gives everything back to the kernel."""
        self.own.detach()
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def mix(value: int, word: int) -> int:
    """ks_mix of bpf/include/ks.h."""
    value = (value ^ word) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 29
