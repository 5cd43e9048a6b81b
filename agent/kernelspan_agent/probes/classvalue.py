# SPDX-License-Identifier: Apache-2.0
"""A match class as the kernel has it: struct ks_class of bpf/include/ks.h."""

from __future__ import annotations

import struct

from kernelspan_agent.model import carriers
from kernelspan_agent.probes import constants
from kernelspan_api.operations import Group
from kernelspan_api.plan import Wanted

VALUE = struct.Struct(f"<Q4QQQ{constants.OWN_WORDS}QII{constants.MAX_PORTS}HII")
_PATHS, _REQUESTS = 1, 2
_U64 = (1 << 64) - 1


def value_of(wanted: Wanted, own: int, keep: float) -> bytes:
    """What a class wants. `own`: bits by the numbers of own probes. `keep`: share of operations of the built-in groups that
    are not thrown away as they begin. More ports than it has room for: any.
    """
    interval = 1_000_000_000 // max(wanted.events_per_second, 1)
    ports = wanted.ports if len(wanted.ports) <= constants.MAX_PORTS else ()
    return VALUE.pack(
        wanted.mask,
        *(wanted.min_duration_ns.get(group, 0) for group in Group),
        interval,
        interval * wanted.burst_events,
        *(own >> 64 * word & _U64 for word in range(constants.OWN_WORDS)),
        wanted.max_depth,
        (_PATHS if wanted.paths else 0) | (_REQUESTS if wanted.requests else 0) | _protocols(wanted),
        *ports,
        *([0] * (constants.MAX_PORTS - len(ports))),
        len(ports),
        constants.of_hits(1 - keep),
    )


def _protocols(wanted: Wanted) -> int:
    """Whose bytes are copied: bits by WireProtocol."""
    found = 0
    for request in wanted.requests:
        for each in carriers(request.protocol.name):
            found |= 1 << constants.CLASS_PROTOCOLS_AT + each
    return found
