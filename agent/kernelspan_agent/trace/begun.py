# SPDX-License-Identifier: Apache-2.0
"""Tasks that a loop begins for a request as soon as it has received it: known by the next number.

asyncio numbers its tasks, and with what a loop's thread receives the kernel reads how many there were. A server that begins a
task for a request in the very callback that has read the end of its head gives that task the next number, before anything else
of that thread runs. So a task with that number, whose frames prove that it is begun for one request (adopt.works_on_one), is
at that request and nothing else, whoever sends the answer.

It is nobody's where the number may be another's: if another request comes in at the same count, no task was begun for the one
before; if a request came while another of its connection is open, its task is begun later; and if several threads receive, only
the operations of the thread itself count, as another one may have taken the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.runtimes.python.tasks import generation_of

if TYPE_CHECKING:
    from kernelspan_agent.model import ProcessInfo
    from kernelspan_agent.trace.claims import Followed

GENERATION = ~3  # of a task's context, without what its last bits say
MAX_THREADS = 4096


@dataclass(frozen=True, slots=True)
class _Received:
    """What a thread has received last. `count`: tasks that there were; `expected`: the generation of the next one."""

    count: int
    expected: int = 0


class Begun:
    """Requests whose task will be known by its number."""

    def __init__(self) -> None:
        self._by_task: dict[tuple[ProcessInfo, int], tuple[Followed, int]] = {}  # and the thread that has received it
        self._tasks: dict[Followed, tuple[ProcessInfo, int]] = {}
        self._last: dict[tuple[ProcessInfo, int], _Received] = {}
        self._threads: dict[ProcessInfo, int] = {}  # the only one of the process that receives; 0: there are several

    def received(self, followed: Followed | None, info: ProcessInfo, tid: int, count: int) -> None:
        """A thread has received bytes of requests. `followed`: it is all of a head, and nothing else; `count`: 0: not known."""
        if len(self._last) > MAX_THREADS:
            self._last.clear()
        if self._threads.setdefault(info, tid) != tid:
            self._threads[info] = 0
        last = self._last.get((info, tid))
        if last is not None and last.count == count and last.expected:
            self._forget((info, last.expected))
        expected = 0
        if followed is not None and count:
            expected = generation_of(count + 1) & GENERATION
            self._forget((info, expected))
            self._by_task[info, expected] = followed, tid
            self._tasks[followed] = info, expected
        self._last[info, tid] = _Received(count, expected)

    def find(self, info: ProcessInfo, generation: int, tid: int) -> Followed | None:
        """Whose the task of this generation is, of which this thread has an operation. To be asked once for each."""
        if not self._by_task:
            return None
        found = self._by_task.get((info, generation & GENERATION))
        if found is None or (found[1] != tid and not self._threads.get(info)):
            return None
        return found[0]

    def discard(self, followed: Followed) -> None:
        """It is over."""
        key = self._tasks.get(followed)
        if key is not None:
            self._forget(key)

    def of_process(self, info: ProcessInfo) -> None:
        """The process has ended."""
        self._threads.pop(info, None)
        for key in [each for each in self._last if each[0] is info]:
            del self._last[key]

    def _forget(self, key: tuple[ProcessInfo, int]) -> None:
        found = self._by_task.pop(key, None)
        if found is not None:
            del self._tasks[found[0]]
