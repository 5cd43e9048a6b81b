# SPDX-License-Identifier: Apache-2.0
"""From stacks to function levels: which functions of a stack make spans, and which of them go on to the next stack.

Both are worked out once, for a stack and for a pair of stacks, and kept in bounded caches by identity: stacks are
interned, so per operation there is nothing left but to see that the stack is another one.

A function makes a span if it is the app's own, or the library's function first met below the app's (nearer the
kernel). A function already open further out is not opened again (recursion, direct or not); beyond `max_depth` nothing
is opened. A stack whose outermost frames are missing has no place from which to compare, so it is `known` no more than
one that could not be read: docs/design/function-spans.md.
"""

from __future__ import annotations

from kernelspan_agent.model import Frame, Origin, Stack, StackState
from kernelspan_agent.trace.segments import Function, SegmentCache

_MAX_PATHS = 4096  # distinct stacks at work at one time; a large web application has hundreds
_MAX_STEPS = 8192  # pairs of them that follow one another


class Path:
    """The function levels of one stack, outermost first. Compared by identity.

    `positions[i]` is how many frames stand outside `functions[i]`. `known` False: where the thread was is not known.
    """

    __slots__ = ("functions", "known", "positions", "stack")

    def __init__(self, stack: Stack, levels: list[tuple[int, Function]], known: bool) -> None:
        self.stack = stack  # held, so that its id() names no other stack while this path is cached
        self.positions = tuple(position for position, _ in levels)
        self.functions = tuple(function for _, function in levels)
        self.known = known


class PathCache:
    """Paths by stack, and the step between two paths."""

    def __init__(self, segments: SegmentCache, max_depth: int) -> None:
        self._segments = segments
        self._max_depth = max_depth
        self._paths: dict[int, Path] = {}
        self._steps: dict[tuple[Path, Path], int] = {}

    def __len__(self) -> int:
        return len(self._paths) + len(self._steps)

    def path(self, stack: Stack) -> Path:
        """The path of a stack (by identity)."""
        found = self._paths.get(id(stack))
        if found is None:
            if len(self._paths) >= _MAX_PATHS:
                del self._paths[next(iter(self._paths))]
            known = stack.state is StackState.COMPLETE and bool(stack.frames)
            levels = select(stack, self._segments, self._max_depth) if known else []
            found = self._paths[id(stack)] = Path(stack, levels, known)
        return found

    def kept(self, before: Path, after: Path) -> int:
        """How many levels of `before`, counted from the outermost, go on in `after`. Both are known paths."""
        pair = (before, after)
        found = self._steps.get(pair)
        if found is None:
            if len(self._steps) >= _MAX_STEPS:
                del self._steps[next(iter(self._steps))]
            shared = shared_frames(before.stack, after.stack)
            found = self._steps[pair] = sum(position < shared for position in before.positions)
        return found


def select(stack: Stack, segments: SegmentCache, max_depth: int) -> list[tuple[int, Function]]:
    """The frames that make spans, outermost first: how many frames stand outside each, and its Function."""
    levels: list[tuple[int, Function]] = []
    opened = set()
    below_app = False
    for position, frame in enumerate(reversed(stack.frames)):
        if frame.origin is Origin.APP:
            below_app = True
        elif frame.origin is Origin.LIBRARY and below_app:
            below_app = False
        else:
            continue
        identity = _function(frame)
        if identity not in opened:
            opened.add(identity)
            levels.append((position, segments.function(frame)))
            if len(levels) == max_depth:
                break
    return levels


def shared_frames(before: Stack, after: Stack) -> int:
    """How many frames, counted from the outermost, go on: same function, and the same call sites outside it."""
    shared = 0
    for one, other in zip(reversed(before.frames), reversed(after.frames), strict=False):
        if _function(one) != _function(other):
            break
        shared += 1
        if one.call_site != other.call_site or one.line != other.line:
            break
    return shared


def _function(frame: Frame) -> tuple[object, ...]:
    # The names as well as the code's address: where a runtime gives no address (0) they alone must tell.
    return (frame.code, frame.function, frame.file, frame.origin)
