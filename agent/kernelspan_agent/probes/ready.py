# SPDX-License-Identifier: Apache-2.0
"""What a session loads, compiled: made in whatever thread has the time, and attached by the one that owns the session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_agent.probes.build import Built
    from kernelspan_agent.probes.mechanisms import Mechanism
    from kernelspan_agent.probes.own.prepare import Prepared
    from kernelspan_api.userprobes import UserProbe


@dataclass(frozen=True, slots=True)
class Ready:
    """The programs of groups and walkers, and the user's own probes. What is not opened is to be closed.

    `mechanism`: which they were compiled for; None: that of a session that has one already.
    """

    built: Built
    own: Sequence[Prepared] = ()
    mechanism: Mechanism | None = None

    def close(self) -> None:
        """Gives back what the probes' plans hold."""
        for each in self.own:
            each.close()


def with_own(
    built: Built, probes: Sequence[UserProbe], defines: Mapping[str, int], environ: Mapping[str, str]
) -> Ready:
    """The same with the user's own probes, compiled."""
    if not probes:
        return Ready(built)
    from kernelspan_agent.probes.own.prepare import prepare  # noqa: PLC0415 - with what it needs 1.5 MB resident

    return Ready(built, prepare(probes, defines, environ))
