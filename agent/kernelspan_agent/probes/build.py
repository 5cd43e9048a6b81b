# SPDX-License-Identifier: Apache-2.0
"""Compiles modules in a child process that ends, and keeps the result by everything that went into it.

Each module is kept on its own; its key is its text, the constants, the kernel (release, build, and which start of it: where
it has its memory differs from one to the next), the PID namespace and bcc's version: a second start of the agent compiles nothing, another
profile what it has and the first had not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import cache, children, compiler, constants, pidns
from kernelspan_agent.probes.refusals import not_permitted
from kernelspan_agent.probes.source import bpf_directory, generated_text, module_text

_turns = threading.Lock()  # of threads that compile, where one child may run at a time


@dataclass(frozen=True, slots=True)
class Module:
    """A C file and the programs in it that are wanted; or, with `text`, C that was generated."""

    name: str
    programs: tuple[str, ...]
    text: str = ""

    def whole_text(self) -> str:
        """All of it, ready for bcc."""
        return generated_text(self.text) if self.text else module_text(self.name)


@dataclass(frozen=True, slots=True)
class Built:
    """What the compiler made: modules by name, the constants they were compiled with, and where they came from."""

    modules: dict[str, Any]
    defines: dict[str, int]
    cached: bool
    seconds: float


def kernel_version_code(release: str) -> int:
    """LINUX_VERSION_CODE of a release such as 6.1.0-18-amd64."""
    numbers = [int(part) for part in release.split("-", maxsplit=1)[0].split(".")[:3] if part.isdigit()]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return (major << 16) + (minor << 8) + min(patch, 255)


def request(modules: Sequence[Module], defines: Mapping[str, int], environ: Mapping[str, str]) -> dict[str, Any]:
    """What the compiling child reads. KERNELSPAN_READS=Helpers: no plain loads, even where the kernel takes them."""
    bpf = bpf_directory()
    texts = {module.name: module.whole_text() for module in modules}
    of_own = {
        name: paths for name, paths in constants.OWN_OFFSETS.items() if any(name in text for text in texts.values())
    }
    return {
        "shim": str(bpf / "shim"),
        "kernel_version": kernel_version_code(platform.release()),
        "reads": environ.get("KERNELSPAN_READS", "Auto"),
        "offsets": {**constants.OFFSETS, **of_own},
        "defines": dict(defines),
        "flags": ["-w", "-I/usr/include", f"-I/usr/include/{_multiarch()}"],
        "tokens": {str(constants.RING_TOKEN): "ks_ring"},
        "modules": {module.name: {"text": texts[module.name], "programs": module.programs} for module in modules},
    }


def _multiarch() -> str:
    return {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}[platform.machine()]


def _key(wanted: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    digest.update(" ".join(os.uname()).encode())
    digest.update(cache.boot_id())
    digest.update(str(pidns.own_number()).encode())
    for library in ("/usr/lib/python3/dist-packages/bcc/__init__.py", "/usr/lib/python3/dist-packages/bcc/version.py"):
        try:
            digest.update(str(Path(library).stat().st_mtime_ns).encode())
        except OSError:
            digest.update(b"-")
    return digest.hexdigest()


def build(modules: Sequence[Module], defines: Mapping[str, int], environ: Mapping[str, str]) -> Built:
    """Compiles (or finds) `modules`.

    Raises MachineError: bcc or its Python is missing, the kernel has no BTF, or clang refuses (CompileFailed).
    """
    wanted = request(modules, defines, environ)
    kept = {name: cache.directory(environ) / f"{_key(_only(wanted, [name]))}.json" for name in wanted["modules"]}
    found = {name: answer for name, path in kept.items() if (answer := cache.read(path, name))}
    missing = [name for name in kept if name not in found]
    seconds = 0.0
    if missing:
        started = time.monotonic()
        at_once = children.at_once(environ)
        shares = _shares({name: wanted["modules"][name]["text"] for name in missing}, min(at_once, len(missing)))
        turn = _turns if at_once == 1 else contextlib.nullcontext()
        with turn, ThreadPoolExecutor(len(shares)) as pool:
            answers = pool.map(lambda names: compile_now(_only(wanted, names)), shares)
            for names, answer in zip(shares, answers, strict=True):
                for name in names:
                    found[name] = _only(answer, [name])
                    cache.keep(kept[name], found[name])
        seconds = time.monotonic() - started
    in_order = {name: found[name]["modules"][name] for name in kept}
    offsets = next(iter(found.values()))["defines"] if found else dict(defines)
    return Built(in_order, offsets, not missing, seconds)


def _shares(texts: Mapping[str, str], count: int) -> list[list[str]]:
    """Modules by the children that compile them, so that these take as long: by the lines that not all modules have."""
    lines = {name: text.splitlines() for name, text in texts.items()}
    common = set.intersection(*map(set, lines.values()))
    own = {name: sum(len(line) for line in text if line not in common) for name, text in lines.items()}
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(own, key=lambda name: -own[name]):
        min(shares, key=lambda share: sum(own[each] for each in share)).append(name)
    return shares


def _only(wanted: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A request or an answer with these of its modules."""
    return {**wanted, "modules": {name: wanted["modules"][name] for name in names}}


def compile_now(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the compiling child on a request; raises MachineError with the first line that says what is wrong."""
    try:
        output, said, status = children.answer(wanted)
        answer: dict[str, Any] = json.loads(output)
    except FileNotFoundError as error:
        raise MachineError(f"{children.PYTHON} is not there", hint=INSTALL) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"compiling took more than {children.TIMEOUT_SECONDS} s", reason="CompileFailed") from error
    except ValueError as error:
        raise _without_answer(said.decode(errors="replace"), status) from error
    if "error" in answer:
        raise _refusal(answer, said.decode(errors="replace"))
    return answer


def _without_answer(said: str, status: int) -> MachineError:
    """Of a compiling process that ended without one: what clang had complained of, else its last word."""
    words = said.strip().splitlines() or [f"exit status {status}"]
    if status == -signal.SIGXCPU:
        words = [f"it took more than {compiler.CPU_SECONDS} s of CPU a module"]
    errors = [line for line in words if "error: " in line]
    failure = MachineError(
        f"the compiling process failed: {(errors or words[-1:])[0]}",
        reason="CompileFailed",
        hint=INSTALL if errors else "",
    )
    failure.details = said
    return failure


_NO_MAP = re.compile(
    r"could not open bpf map: (\w+), error: (?:Operation not permitted|Permission denied)"
)  # bcc's words
INSTALL = "install bcc: apt-get install python3-bpfcc linux-libc-dev"


def _refusal(answer: Mapping[str, str], words: str) -> MachineError:
    if answer["stage"] == "import":
        return MachineError(f"bcc is not there: {answer['error']}", hint=INSTALL)
    if answer["stage"] == "btf":
        return MachineError(
            f"no type information of this kernel: {answer['error']}",
            reason="KernelTooOld",
            hint="a kernel with CONFIG_DEBUG_INFO_BTF=y publishes /sys/kernel/btf/vmlinux",
        )
    if forbidden := _NO_MAP.search(words):
        return not_permitted(f"map {forbidden[1]}")
    errors = [line for line in words.splitlines() if "error" in line] or [answer["error"]]
    failure = MachineError(f"{answer['module']}: {errors[0]}", reason="CompileFailed", hint=INSTALL)
    failure.details = words
    return failure
