# SPDX-License-Identifier: Apache-2.0
"""The traced processes: which image a pid stood for at an instant, what runs it, and how its symbols are read.

A pid is never trusted alone: a process is (pid, start), where start is the kernel's instant of its exec, of the fork of
a child that has not exec'd, or of the moment we began to trace it. Processes that have ended stay for LINGER_NS, since
their last operations may still be on the way.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.memory import GONE, Memory, ProcessMemory
from kernelspan_agent.resolve.besides import Besides, flags_of
from kernelspan_agent.resolve.glance import Glance, glance, glance_at_twin
from kernelspan_agent.resolve.images import KnownImages
from kernelspan_agent.resolve.looks import AFTER_FORK_NS, SOON, pause_ns
from kernelspan_agent.resolve.traced import TracedProcess, seen_after_exec
from kernelspan_agent.ring.records import PROCESS, ProcessEvent
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.look import FileCache
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import Verdict
    from kernelspan_agent.resolve.kernel import Kernel

LINGER_NS = 5_000_000_000


class ProcessTable:
    """Every process that is traced, and the detection of what runs it."""

    def __init__(
        self,
        kernel: Kernel,
        libraries: Libraries,
        to_epoch: Callable[[int], int],
        *,
        proc_root: str = "/proc",
        glances: Callable[[int, int], Glance | None] | None = None,
        files: FileCache | None = None,
        whose: Callable[[int], frozenset[str]] = lambda _tgid: frozenset(),
    ) -> None:
        """`files`: what is known of some already. `glances`: gives the glance that was taken of an image (tgid, start) when its record was read from the ring.

        `whose`: the profiles that want a process, by what the kernel traces it for: asked where the record of its beginning, or of its
        parent's, was lost.
        """
        self._kernel, self._libraries, self._to_epoch, self._proc_root = kernel, libraries, to_epoch, proc_root
        self._by_tgid: dict[int, list[TracedProcess]] = {}
        self._pending: dict[TracedProcess, None] = {}
        self._ended: list[TracedProcess] = []
        self._glances = glances or (lambda tgid, _start: glance(tgid, proc_root))
        self._files = FileCache() if files is None else files
        self._whose = whose
        self._known_images = KnownImages()
        self.besides = Besides(self._tell)
        self._unwalkable: dict[int, Unsupported] = {}  # by the runtime's number
        self.started: list[TracedProcess] = []  # since the caller last emptied it
        self.finished: list[TracedProcess] = []
        self.gone: list[TracedProcess] = []  # of which nothing comes any more
        self.execs: list[tuple[int, int]] = []  # processes that became another program, and when (CLOCK_MONOTONIC)
        self.runtimes = Counter[str]()

    def alive(self) -> list[TracedProcess]:
        """The processes that have not ended, as far as we know."""
        return [each for images in self._by_tgid.values() for each in images if not each.ended_ns]

    def latest(self, tgid: int) -> TracedProcess | None:
        """The image that runs as `tgid` now, as far as we know; None: none that is traced."""
        images = self._by_tgid.get(tgid)
        return images[-1] if images and not images[-1].ended_ns else None

    def find(self, tgid: int, at_ns: int) -> TracedProcess | None:
        """The image that `tgid` stood for at an instant (CLOCK_MONOTONIC). None: none that is known; one that had ended is not who
        has its number now, and one that was told from its start did nothing before.
        """
        images = self._by_tgid.get(tgid)
        if not images:
            return None
        found = next((each for each in reversed(images) if each.start_ns <= at_ns), None)
        if found is None:
            return None if images[0].from_start else images[0]
        return None if found.has_ended(at_ns) else found

    def _known(self, tgid: int, start_ns: int) -> TracedProcess | None:
        return next((each for each in self._by_tgid.get(tgid, ()) if each.start_ns == start_ns), None)

    def add(
        self,
        tgid: int,
        start_ns: int,
        *,
        name: str,
        from_start: bool,
        wanted_by: frozenset[str],
        parent: TracedProcess | None = None,
        known: Callable[[], Glance | None] = lambda: None,
        directories: tuple[int, int] = (0, 0),
    ) -> TracedProcess:
        """Takes in a new image. `known`: what is known of it where nobody can look at it any more."""
        seen = self._glances(tgid, start_ns) or known()
        context = LibraryContext("", seen.root if seen else f"{self._proc_root}/{tgid}/root")
        traced = TracedProcess(
            tgid, name, start_ns, self._to_epoch(start_ns), from_start, parent, seen, context, wanted_by, directories
        )
        self.started.append(traced)
        self._pending[traced] = None
        self._insert(traced)
        return traced

    def _insert(self, traced: TracedProcess) -> None:
        """In the order of their starts: each is over when the next one begins."""
        images = self._by_tgid.setdefault(traced.tgid, [])
        at = len(images)
        while at and images[at - 1].start_ns > traced.start_ns:
            at -= 1
        for earlier in images[:at]:
            self.end(earlier, traced.start_ns)
        images.insert(at, traced)
        if at + 1 < len(images):  # it is told of late
            self.end(traced, images[at + 1].start_ns)

    def leave_unwalked(self, traced: TracedProcess) -> None:
        """What runs this image is of no interest: no frames of it."""
        self._pending.pop(traced, None)
        self._kernel.set_runtime(traced.tgid, traced.start_ns, None, 0)

    def learn(self, record: bytes, path: Callable[[int], str] = lambda _: "") -> None:
        """Takes in a PROCESS record: a fork, an exec or an end. `path`: the text of a PATH record's id; empty: not known."""
        row = np.frombuffer(record, PROCESS, 1)[0]
        tgid, start, when = int(row["tgid"]), int(row["start"]), int(row["time"])
        event, directories = int(row["event"]), (int(row["root"]), int(row["cwd"]))
        name = procfs.printable(bytes(row["comm"]).decode(errors="surrogateescape"))
        known = self._known(tgid, start) if start else None
        if event == ProcessEvent.EXIT:
            self._learn_end(known, tgid, start, name, when, directories)
            return
        if known is not None:
            self._forget_glance(tgid, start)  # it was caught up with
            known.told = known.told or path(int(row["executable"]))
            return
        old = self.find(tgid, when)
        if event == ProcessEvent.FORK:
            parent = self._parent(int(row["parent"]), when)
            child = self.add(
                tgid,
                start,
                name=name,
                from_start=True,
                wanted_by=parent.wanted_by if parent else self._whose(tgid),
                parent=parent,
                known=lambda: glance_at_twin(tgid, parent.seen) if parent and parent.seen else None,
                directories=directories,
            )
            if parent is not None:
                child.surroundings, child.told = parent.surroundings, parent.executable
            if parent is not None and parent.runtime is not None:
                child.words = parent.words
                self._use(child, parent.runtime, flags=parent.flags)
                if child in self._pending:
                    child.next_try_ns, child.tries = start + AFTER_FORK_NS, SOON
        elif event == ProcessEvent.EXEC and not start:
            self.execs.append((tgid, when))
        elif event == ProcessEvent.EXEC:
            image = self.add(
                tgid,
                start,
                name=name,
                from_start=True,
                wanted_by=old.wanted_by if old else self._whose(tgid),
                parent=old.parent if old else None,
                known=lambda: seen_after_exec(tgid, old, directories),
                directories=directories,
            )
            image.told = path(int(row["executable"]))
            if old is not None:
                image.surroundings = old.surroundings
            self.execs.append((tgid, when))

    def _parent(self, tgid: int, at_ns: int) -> TracedProcess | None:
        """Who forked at an instant; where the record of its last exec was lost, that is found out now."""
        found, start = self.find(tgid, at_ns), self._kernel.process_start(tgid)
        if start and start <= at_ns and (found is None or found.start_ns < start):
            self.recover(tgid)
            return self.find(tgid, at_ns)
        return found

    def _learn_end(
        self, known: TracedProcess | None, tgid: int, start: int, name: str, when: int, directories: tuple[int, int]
    ) -> None:
        if known is None:  # the record of its beginning was lost
            before = self.find(tgid, start)
            known = self.add(tgid, start, name=name, from_start=True, wanted_by=frozenset(), directories=directories)
            if before is not None and before.directories[0] and before.directories[0] == directories[0]:
                known.surroundings = before.surroundings  # of one root is one container
                known.wanted_by = before.wanted_by
        self.end(known, when)

    def _forget_glance(self, tgid: int, start_ns: int) -> None:
        if (seen := self._glances(tgid, start_ns)) is not None:
            seen.close()

    def recover(self, tgid: int, before_ns: float = math.inf) -> None:
        """Takes in a process whose record was lost (the ring was full), as long as it lives, if it began before an instant.

        It is one that was known, and another program by now, or one that nobody knows, whose number may have been another's.
        """
        start, images = self._kernel.process_start(tgid), self._by_tgid.get(tgid, [])
        if not start or start >= before_ns or (images and start <= images[-1].start_ns):
            return
        before = images[-1] if images and not images[-1].ended_ns else None
        name = procfs.read_name(tgid, self._proc_root)
        found = self.add(tgid, start, name=name, from_start=True, wanted_by=self._whose(tgid))
        if before is not None and before.is_process_of(found):
            found.parent, found.wanted_by, found.surroundings = before.parent, before.wanted_by, before.surroundings
        self.execs.append((tgid, start))  # who wants it is to be looked at again

    def catch_up(self, before_ns: int, now_ns: Callable[[], int]) -> None:
        """After process records were lost: what began, what is another program, and what ended, by what the kernel has now.

        `before_ns`: whatever began before that (CLOCK_MONOTONIC) is known, or its record is lost.
        """
        for tgid in self._kernel.traced() | {each.tgid for each in self.alive()}:
            self.recover(tgid, before_ns)
        for traced in self.alive():
            if self._kernel.process_start(traced.tgid) is None:
                self.end(traced, now_ns())

    def end(self, traced: TracedProcess, when_ns: int) -> None:
        """A process has ended, or become another program."""
        if traced.ended_ns:
            return
        traced.ended_ns = when_ns
        traced.ended_epoch_ns = self._to_epoch(when_ns)
        self._pending.pop(traced, None)
        self.besides.end(traced)
        self._ended.append(traced)
        self.finished.append(traced)

    @property
    def has_pending(self) -> bool:
        """Whether some process's runtime, or what it needs, is still looked for soon."""
        return bool(self.besides) or any(traced.tries < SOON for traced in self._pending)

    def detect_pending(self, now_ns: int) -> None:
        """Looks again at processes whose runtime is not known yet, each at its own pace."""
        for traced in list(self._pending):
            if traced.next_try_ns <= now_ns:
                self._detect(traced, now_ns)
        self.besides.look_at_waiting()

    def _detect(self, traced: TracedProcess, now_ns: int) -> None:
        if traced.process is None:
            self._pending.pop(traced, None)
            return
        try:
            found = registry.detect(traced.process, self._files)
        except ProcessError:
            self._pending.pop(traced, None)
            return
        if isinstance(found, DetectedRuntime):
            if traced.runtime is None or traced.runtime.runtime != found.runtime:
                traced.words = ()
                self._use(traced, found, flags=flags_of(traced, found))
                self.besides.look(traced)  # what it has mapped before the kernel knew what runs it
            if registry.runtime_of(found).fallback:
                self._try_again(traced, now_ns)
            else:
                self._known_images.learn(traced.process, found, self._kernel)
            return
        traced.looks += found != traced.unsupported
        traced.unsupported = found
        if found is None or not found.waits:
            self._kernel.set_runtime(traced.tgid, traced.start_ns, None, 0)
        self._try_again(traced, now_ns)

    def _try_again(self, traced: TracedProcess, now_ns: int) -> None:
        waits = bool(traced.unsupported and traced.unsupported.waits)
        pause = pause_ns(traced.tries, now_ns - traced.start_ns, waits=waits)
        if pause is None:
            self._pending.pop(traced, None)
            return
        traced.next_try_ns, traced.tries = now_ns + pause, traced.tries + 1

    def foresee(self, path: str, *, library: bool = False) -> None:
        """Lets the kernel know what will run a program, before it has begun, where its file, or a library's, alone says it."""
        self._known_images.foresee(path, self._files, self._kernel, library=library)

    def detect_now(self, traced: TracedProcess) -> None:
        """Looks at a process at once: the kernel has walked it, so its runtime is there."""
        if traced in self._pending:
            traced.next_try_ns = 0
            self._detect(traced, 0)

    def look_for_flags(self) -> None:
        """Tells the kernel of processes whose flags or words are others by now: see registry.Runtime."""
        for traced in self.alive():
            self.besides.look(traced)

    def walker_came(self, number: int) -> None:
        """The processes of a runtime can be walked from now on."""
        for traced in self.alive():
            if traced.runtime is not None and traced.runtime.number == number:
                self._tell(traced, traced.runtime)
                self.besides.begin(traced)
        if number not in self._unwalkable:
            self._known_images.tell(number, self._kernel)

    def walker_failed(self, number: int, why: Unsupported) -> None:
        """The processes of a runtime cannot be walked by this session."""
        self._unwalkable[number] = why
        self.walker_came(number)

    def _use(self, traced: TracedProcess, found: DetectedRuntime, *, flags: int, tell: bool = True) -> None:
        memory: Memory = GONE
        if traced.memory is not None:
            traced.memory.close()  # a fallback's
        if traced.process is not None:
            with contextlib.suppress(ProcessError):  # it has ended: what the kernel sent of it is all there is
                memory = traced.memory = ProcessMemory(traced.process)
        traced.runtime, traced.flags, traced.unsupported = found, flags, None
        traced.symboliser = registry.symboliser(found, memory)
        if traced.process is not None:
            traced.watch = registry.watch(found, traced.process, memory, traced.symboliser, self._kernel)
            self.besides.begin(traced)
        where = (traced.context.root, found.numbers, traced.seen.cwd if traced.seen else "")
        traced.context = LibraryContext(found.runtime, *where, traced.process)
        traced.looks += 1
        if not registry.runtime_of(found).fallback:  # else another may claim it yet
            self._pending.pop(traced, None)
        self.runtimes[f"{found.implementation} {found.version}".strip()] += 1
        if tell:
            self._tell(traced, found)

    def walked(self, traced: TracedProcess, layout: int) -> None:
        """The kernel has walked a process that nobody has looked at yet: its runtime is the one of that layout."""
        self.detect_now(traced)
        if traced.runtime is None and (found := self._known_images.by_layout.get(layout)) is not None:
            self._use(traced, found, flags=0, tell=False)

    def _tell(self, traced: TracedProcess, found: DetectedRuntime) -> None:
        if found.number in self._unwalkable:
            traced.unsupported = self._unwalkable[found.number]
            self._kernel.set_runtime(traced.tgid, traced.start_ns, None, 0)
        if found.number in self._unwalkable or not self._kernel.walks(found.number):
            return
        self._kernel.set_runtime(traced.tgid, traced.start_ns, found, traced.flags, traced.words)
        self._known_images.keep_layout(found, self._kernel)

    def classify(self, traced: TracedProcess, file: str) -> Verdict:
        """Whose code a file of this process is."""
        return self._libraries.classify(file, traced.context)

    def sweep(self, now_ns: int) -> None:
        """Lets go of processes that ended a while ago."""
        keep = []
        for traced in self._ended:
            if now_ns - traced.ended_ns < LINGER_NS:
                keep.append(traced)
                continue
            traced.close()
            traced.parent = None  # else a process that forks for ever keeps all that were before it
            self.gone.append(traced)
            images = self._by_tgid.get(traced.tgid, [])
            if traced in images:
                images.remove(traced)
            if not images:
                self._by_tgid.pop(traced.tgid, None)
        self._ended = keep

    def close(self) -> None:
        """Closes every process's memory."""
        for images in self._by_tgid.values():
            for traced in images:
                traced.close()
