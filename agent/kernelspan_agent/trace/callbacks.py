# SPDX-License-Identifier: Apache-2.0
"""Event loops that hand what they have read to a callback at once: what runs in that very call is for the request.

Node.js has one thread for all requests. libuv reads a socket and calls the parser of HTTP with what it has read, before it
reads anything else; where that completes a head, the parser calls the server's function, and that the program's. So while these
are the outermost functions of a stack, whatever runs was called for the request that the thread's last receive has brought. The
kernel tells with each operation when that began (bpf/runtimes/nodejs.bpf.h): a receive that was not seen is another one.

What the program has put off (promises, timers, ticks, events of other connections) has other outermost functions: not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelspan_agent.model import StackState
from kernelspan_agent.ring.records import ContextKind

if TYPE_CHECKING:
    from kernelspan_agent.model import ResolvedBatch, Stack

_RUNTIMES = {"nodejs"}
# Outermost first: what the parser calls with a whole head, and what a server gives it for that; lib/_http_common.js and
# _http_server.js of Node.js 18 to 26.
_OUTERMOST = (("parserOnHeadersComplete", "node:_http_common"), ("parserOnIncoming", "node:_http_server"))


def is_of_callbacks(runtime: str) -> bool:
    """Whether threads of this runtime (process.runtime.name) are such loops."""
    return runtime in _RUNTIMES


def brought_by(batch: ResolvedBatch, row: int) -> int:
    """What operations of the callback bear as their generation that this receive is handed to; 0: it may be none's."""
    ops = batch.ops
    generation = int(ops["generation"][row])
    is_loops = ops["context_kind"][row] == ContextKind.THREAD and batch.stacks[row].state is StackState.NONE
    return generation if is_loops and generation == int(ops["start"][row]) else 0


def is_servers(stack: Stack) -> bool:
    """Whether all of a stack that is whole was called by a server's function for a request that has come."""
    outermost = tuple((each.function, each.file) for each in stack.frames[: -len(_OUTERMOST) - 1 : -1])
    return outermost == _OUTERMOST
