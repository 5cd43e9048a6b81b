# SPDX-License-Identifier: Apache-2.0
"""When processes are looked for whose records were lost: once all is taken on that had been told when the loss was noticed.

Before, the records of what began since may be on their way, and whoever is found without them would be found twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.intake import Intake
    from kernelspan_agent.probes.session import Session
    from kernelspan_agent.resolve.processes import ProcessTable


class LostProcesses:
    """`tick` it now and then, in the thread of the stages."""

    def __init__(self, session: Session, intake: Intake, processes: ProcessTable, now_ns: Callable[[], int]) -> None:
        """`now_ns`: CLOCK_MONOTONIC."""
        self._session, self._intake, self._processes, self._now_ns = session, intake, processes, now_ns
        self._seen = 0  # records that were lost
        self._noticed_ns = 0  # when more were; 0: nothing is to be done
        self._mark: int | None = None

    def tick(self) -> None:
        """Notices a loss; a tick later what began before has told all; and once that is taken on the rest is looked for."""
        if not self._noticed_ns:
            lost = self._session.lost_processes()
            if lost != self._seen:
                self._seen, self._noticed_ns, self._mark = lost, self._now_ns(), None
        elif self._mark is None:
            self._mark = self._intake.mark()
        elif self._intake.is_through(self._mark):
            self._processes.catch_up(self._noticed_ns, self._now_ns)
            self._noticed_ns = 0
