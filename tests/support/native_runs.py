# SPDX-License-Identifier: Apache-2.0
"""Native targets at work under an agent, and what comes of it held against what libgcc's unwinder said at the same place.

A target (targets/native, after said.h) says the addresses of its frames just before each read. Whose functions they are readelf
says here, by the same rule: an address has a name where a function covers it.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pycxxfilt

from kernelspan_agent.process.symbols.demangling import qualified, readable
from kernelspan_agent.runtimes.native.detect import NUMBER
from kernelspan_api import semconv
from tests.support import truth
from tests.support.compiled import run
from tests.support.otlp_json import ReceivedSpan
from tests.support.require import require

TARGETS = truth.TARGETS / "native"
_SYMBOL = re.compile(r"\s*\d+: ([0-9a-f]+)\s+(\d+|0x[0-9a-f]+) (?:FUNC|IFUNC)\s+\S+\s+\S+\s+\d+ (\S+)")
_LOAD = re.compile(r"\s*LOAD\s+0x([0-9a-f]+) 0x([0-9a-f]+)")
_COPY = re.compile(r"\.(?:cold|constprop|isra|part|lto_priv|llvm)\b.*")
_RESTORES = frozenset({"__restore_rt"})
_READS = {"read", "__read", "__libc_read", "__GI___libc_read"}
Frame = tuple[frozenset[str], str]  # names that it may have, real path of its file


@dataclass
class Verdict:
    """What came of holding spans against what was said."""

    said: int = 0
    whole: int = 0
    wrong: list[str] = field(default_factory=list)
    truncated: Counter[str] = field(default_factory=Counter)  # right as far as they go, by why they end
    missing: Counter[str] = field(default_factory=Counter)
    frames: int = 0


def build(folder: Path, name: str, source: str, *flags: str, compiler: str = "gcc") -> Path:
    """A target."""
    made = folder / name
    run(compiler, "-w", "-o", str(made), str(TARGETS / source), *flags, "-ldl", "-lpthread")
    return made


@contextlib.contextmanager
def started(program: Path, folder: Path, token: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A target, ready; it goes on when a line is written to it."""
    (folder / f"file.{token}.reads").touch()
    command = [str(program), str(folder / f"file.{token}.reads"), str(folder / f"said.{token}"), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=program.parent
    ) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def build_rust(folder: Path, name: str, *flags: str) -> Path:
    """The target in Rust; the test is left out where there is no compiler of it."""
    compiler = shutil.which("rustc")
    require("kernel", compiler, "rustc is not installed")
    run("gcc", "-w", "-O2", "-c", "-o", str(folder / "said.o"), str(TARGETS / "said_rust.c"))
    run(
        str(compiler),
        *flags,
        "-C",
        f"link-arg={folder / 'said.o'}",
        "-o",
        str(folder / name),
        str(TARGETS / "truth.rs"),
    )
    return folder / name


def plugins(folder: Path, *flags: str) -> Path:
    """A target that loads libraries of one layout, which lie where the one before lay, and these libraries beside it."""
    layouts = {"one": ("64",), "two": ("4000",), "three": ("900", "-DMOVING"), "four": ("900",), "five": ("64",)}
    for name, (room, *more) in layouts.items():
        made = ("-O2", "-shared", "-fPIC", f"-DNAME={name}", f"-DROOM={room}", *more, *flags)
        run("gcc", "-w", "-o", str(folder / f"{name}.so"), str(TARGETS / "plugin.c"), *made)
    return build(folder, "plugins", "plugins.c", "-O2")


def traced(programs: Sequence[Path], *arguments: str) -> tuple[list[Verdict], list[ReceivedSpan], dict[str, Any]]:
    """Runs the programs side by side, all traced from the moment they are ready: verdicts, all spans, accounting."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = [f"{index:012x}" for index in range(len(programs))]
        running = [
            stack.enter_context(started(program, folder, token, *arguments))
            for program, token in zip(programs, tokens, strict=True)
        ]
        with truth.open_app(folder / "spans.jsonl") as app:
            for each in running:
                app.select(each.pid, "target")
            truth.run_until(app, lambda: app.session.walks(NUMBER) and not app.processes.has_pending)
            for each in running:
                assert each.stdin is not None
                each.stdin.write("\n")
                each.stdin.flush()
            truth.run_until(app, lambda: all(each.poll() is not None for each in running))
            app.end(10.0)
            accounting = app.accounting().as_json()
        assert [each.returncode for each in running] == [0] * len(running)
        spans = truth.read_spans(folder / "spans.jsonl")
        by_key = truth.by_key(spans)
        verdicts = [
            judge(folder / f"said.{token}", token, program, by_key)
            for program, token in zip(programs, tokens, strict=True)
        ]
        return verdicts, spans, accounting


def judge(said: Path, token: str, program: Path, spans: dict[str, list[ReceivedSpan]]) -> Verdict:
    """Every read that was said against its span."""
    verdict = Verdict()
    for line in said.read_text().splitlines():
        number, *addresses = line.split()
        verdict.said += 1
        found = spans.get(f"{token}/{number}", [])
        if len(found) != 1:
            verdict.missing[f"{len(found)} spans"] += 1
            continue
        reason = str(found[0].attributes.get(semconv.CODE_MISSING, ""))
        text = found[0].attributes.get(semconv.CODE_STACKTRACE)
        if not isinstance(text, str):
            verdict.missing[reason or "None"] += 1
            continue
        shown = [(function, os.path.realpath(file)) for function, file, _ in truth.parse_stack(text)]
        expected = [frame(address, program) for address in addresses]
        problem = _compare(shown, expected, cut=bool(reason))
        verdict.frames += len(shown)
        if problem:
            verdict.wrong.append(f"{number}: {problem}")
        elif reason:
            verdict.truncated[reason] += 1
        else:
            verdict.whole += 1
    return verdict


def _compare(shown: list[tuple[str, str]], expected: list[Frame], *, cut: bool) -> str:
    if shown[0][0] not in _READS:
        return f"{shown[0]} is not read"
    if len(shown) - 1 > len(expected) or (len(shown) - 1 < len(expected) and not cut):
        return f"{len(shown) - 1} frames, not {len(expected)}: {shown[-3:]}, not {expected[-3:]}"
    for level, ((function, file), (names, path)) in enumerate(zip(shown[1:], expected, strict=False)):
        if file != path or not any(truth.same_text(name, function) for name in names):
            return f"level {level}: {function} of {file}, not {sorted(names)} of {path}"
    return ""


@functools.lru_cache(1 << 16)
def frame(said: str, program: Path) -> Frame:
    """What may be shown for `file:offset`, an address that a call returns to; without a file it is the program's own."""
    file, _, offset = said.rpartition(":")
    path = os.path.realpath(program.parent / (file or program))
    address = int(offset, 16) + _lowest(path)
    found = _covering(path, address - 1)
    if _covering(path, address) == _RESTORES:  # a signal's handler returns to its first instruction
        found = _RESTORES
    return found or frozenset({""}), path


def _covering(path: str, address: int) -> frozenset[str]:
    starts, symbols = _symbols(path)
    names: set[str] = set()
    innermost = -1
    for start, size, name in symbols[
        max(0, bisect.bisect_right(starts, address) - 64) : bisect.bisect_right(starts, address)
    ]:
        if start <= address < start + size and start >= innermost:
            names = {name} if start > innermost else {*names, name}
            innermost = start
    return frozenset(names)


@functools.lru_cache(64)
def _symbols(path: str) -> tuple[list[int], list[tuple[int, int, str]]]:
    lines = run("readelf", "-sW", path).splitlines()
    found = {
        (int(match[1], 16), int(match[2], 0), _COPY.sub("", match[3].partition("@")[0]))
        for line in lines
        if (match := _SYMBOL.match(line)) and int(match[1], 16)
    }
    names = sorted({name for _, _, name in found})
    plain = {name: _demangled(name) for name in names}
    listed = sorted((start, size, plain[name]) for start, size, name in found)
    return [start for start, _, _ in listed], listed


def _demangled(name: str) -> str:
    try:
        found = readable(name.encode(), pycxxfilt.demangle(name)) if name.startswith(("_Z", "_R")) else ""
        return qualified(found) or found or name
    except ValueError:
        return name


@functools.lru_cache(64)
def _lowest(path: str) -> int:
    found = [int(match[2], 16) for line in run("readelf", "-lW", path).splitlines() if (match := _LOAD.match(line))]
    return min(found) & ~4095
