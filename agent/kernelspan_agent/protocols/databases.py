# SPDX-License-Identifier: Apache-2.0
"""What a request to any database says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from kernelspan_agent.protocols.exchanges import Exchange


@dataclass(slots=True, eq=False, kw_only=True)
class Query(Exchange):
    """A command or a statement. Empty: not known, or there is none.

    `text` has no value in it, `raw` has, but for what only serves to log in. `error`: of the answer, the
    database's code. `system`: which of those that speak the protocol it is.
    """

    operation: str
    text: str
    raw: str
    summary: str = ""
    collection: str = ""
    namespace: str = ""
    error: str = ""
    system: str = ""
