# SPDX-License-Identifier: Apache-2.0
"""Random valid profiles by the thousand, each made of a number: its programs are generated, compiled, looked at, one in three loaded.

`python -m tests.support.many_profiles COUNT [--first NUMBER]` goes on where the last run of the same sources stopped, however
that ended; `--first` begins there instead. One that fails is told by its number, kept, and tried again by the next run.
Several modules are compiled as one text (`joined`): that their headers are read once is most of the speed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes import constants
from kernelspan_agent.probes.build import Module, compile_now, request
from kernelspan_agent.probes.own.codegen import Generated
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.source import bpf_directory
from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import validate
from kernelspan_api.userprobes import UserProbe
from tests.support import own_generation

AT_ONCE = 32  # profiles of one compiling child
JOINED = 16  # of one text
_ROOT = Path(__file__).parents[2]
_SOURCES = ("agent/kernelspan_agent/probes/own", "bpf/include", "tests/support/own_generation.py")
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Made:
    """A profile and its one probe's programs."""

    number: int
    probe: UserProbe
    places: Places
    generated: Generated


@dataclass(slots=True)
class State:
    """How far it has come: every number below `next` was tried. `failed`: what was said of those that failed."""

    next: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    loaded: int = 0
    seconds: float = 0.0


def profile_of(number: int) -> Made:
    """The profile of that number: by all rules valid, and one that programs can be made of."""
    chance = random.Random(number)
    for _ in range(_TRIES):
        probe = own_generation.random_probe(chance)
        spec = {"podSelector": {}, "probes": [probe], "code": {"maxDepth": chance.choice([1, 16, 64, 127])}}
        document = {
            "apiVersion": "kernelspan.io/v1alpha1",
            "kind": "TraceProfile",
            "metadata": {"name": f"number-{number}"},
            "spec": spec,
        }
        try:
            found = validate(document).spec.probes[0]
            places = own_generation.places_of(found, chance)
            return Made(number, found, places, own_generation.generated(found, places))
        except (KernelspanError, ProfileError):
            continue
    raise AssertionError(f"number {number}: none of {_TRIES} can be made")


# --- compiled together ----------------------------------------------------------------------------------------------------

_NAMES = re.compile(
    r"\b(ks_own_(?:value|calls|blank|moment|moment_here|put_out|place|scope|within_limits|send|enter\d*|exit\d*))\b"
)
_DEFINED = re.compile(r"^#define (KS_OWN_(?:ARGUMENTS|RECORD|ENTRIES)) ", re.MULTILINE)


def joined(texts: Sequence[str]) -> str:
    """Texts of several probes as one: what each declares gets a number behind its name, what all share is there once."""
    calls = (bpf_directory() / "include" / "own_calls.h").read_text()
    calls = "\n".join(line for line in calls.splitlines() if not line.startswith(("#pragma", "#include")))
    parts = ['#include "own.h"']
    for index, text in enumerate(texts):
        body = text.replace('#include "own.h"', "").replace('#include "own_calls.h"', calls)
        body = _NAMES.sub(lambda found, index=index: f"{found[1]}_{index}", body)
        parts.append(_DEFINED.sub(r"#undef \1\n#define \1 ", body))
    return "\n".join(parts)


def compiled(made: Sequence[Made], *, at_once: int = JOINED) -> list[dict[str, Any] | str]:
    """For each its programs by name, or what is wrong."""
    groups = [made[at : at + at_once] for at in range(0, len(made), at_once)]
    modules = []
    for index, group in enumerate(groups):
        names = tuple(f"{name}_{at}" for at, each in enumerate(group) for name in each.generated.programs)
        modules.append(Module(f"j{index}", names, joined([each.generated.text for each in group])))
    defines = constants.defines(ring_bytes=own_generation.RING_BYTES, watch_exec=False, raw=False)
    try:
        answer = compile_now(request(modules, defines, os.environ))["modules"]
    except KernelspanError as error:
        if len(made) == 1:
            return [f"{error} {error.details[:2000]}"]
        half = len(made) // 2
        return compiled(made[:half], at_once=at_once) + compiled(made[half:], at_once=at_once)
    found: list[dict[str, Any] | str] = []
    for index, group in enumerate(groups):
        module = answer[f"j{index}"]
        for at, each in enumerate(group):
            found.append(_own_part(module, at, each.generated.programs))
    return found


def _own_part(module: Mapping[str, Any], at: int, programs: Sequence[str]) -> dict[str, Any]:
    """Of a joined module what one probe has, by the names that it gave it."""

    def plain(name: str) -> str:
        return name.removesuffix(f"_{at}") if _NAMES.fullmatch(name.removesuffix(f"_{at}")) else name

    found: dict[str, Any] = {"programs": {}, "maps": {}}
    for name in programs:
        program = module["programs"][f"{name}_{at}"]
        places = [(index, plain(each)) for index, each in program["relocations"]]
        found["programs"][name] = {**program, "relocations": places}
        found["maps"] |= {plain(each): module["maps"][each] for _, each in program["relocations"]}
    return found


def looked_at(made: Made, module: Mapping[str, Any], *, load: bool) -> bool:
    """Raises AssertionError or KernelspanError where a program is not as it must be; whether it was loaded."""
    for program in module["programs"].values():
        wrong = {number for kind, number in own_generation.calls(program) if kind == "helper"} - own_generation.HELPERS
        assert not wrong, f"calls helpers {sorted(wrong)}"
    if not load or not own_generation.can_be_loaded(made.places):
        return False
    own_generation.load(made.places, made.generated, module)
    return True


# --- one after the other --------------------------------------------------------------------------------------------------


def state_path() -> Path:
    """Of the sources as they are: other sources begin anew."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for each in _SOURCES:
        at = _ROOT / each
        for path in sorted(at.rglob("*.[hp]*")) if at.is_dir() else [at]:
            if path.suffix in (".h", ".py"):
                digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kernelspan"
    return cache / "profiles" / f"{digest.hexdigest()[:16]}.json"


def _read(path: Path) -> State:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return State()


def _write(path: Path, state: State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(msgspec.to_builtins(state)))
    new.replace(path)


def tried(numbers: Sequence[int], state: State) -> None:
    """Tries these, and notes what came of them."""
    made = [profile_of(number) for number in numbers]
    for each, module in zip(made, compiled(made), strict=True):
        state.failed.pop(str(each.number), None)
        if isinstance(module, str):
            state.failed[str(each.number)] = module
            continue
        try:
            state.loaded += looked_at(each, module, load=each.number % 3 == 0)
        except (AssertionError, KernelspanError) as error:
            state.failed[str(each.number)] = f"{error} {getattr(error, 'details', '')[-2000:]}"


def main() -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.many_profiles", description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, help="begin with that number, and keep no account of it")
    options = parser.parse_args()
    path = state_path()
    state = _read(path) if options.first is None else State(options.first)
    last = state.next + options.count if options.first is not None else options.count
    if state.failed:
        tried([int(number) for number in state.failed], state)
        _write(path, state)
    begun = state.next
    try:
        while state.next < last:
            started = time.monotonic()
            numbers = range(state.next, min(state.next + AT_ONCE, last))
            tried(numbers, state)
            state.next = numbers.stop
            state.seconds += time.monotonic() - started
            if options.first is None:
                _write(path, state)
            each = state.seconds / max(state.next - (options.first or 0), 1)
            left = (last - state.next) * each
            said = f"{state.next} of {last}, {state.loaded} loaded, {len(state.failed)} failed, {each:.3f} s each, {left:.0f} s left"
            print(f"\r{said} ", end="", flush=True)
    except KeyboardInterrupt:
        print(f"\n{state.next - begun} tried now; the same command goes on with number {state.next}", file=sys.stderr)
        return 130
    print()
    for number, said in state.failed.items():
        print(f"number {number}: {said}\n  again alone: python -m tests.support.many_profiles 1 --first {number}")
    return int(bool(state.failed))


if __name__ == "__main__":
    sys.exit(main())
