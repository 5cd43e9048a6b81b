# SPDX-License-Identifier: Apache-2.0
"""Makes the maps, loads the programs, attaches them. Everything lives in descriptors of this process alone.

Nothing is pinned or mounted: when the agent ends, however it ends, the kernel takes all of it back.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import resource
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.refusals import READ_REFUSED, not_permitted
from kernelspan_agent.probes.verdicts import verdict
from kernelspan_agent.ring.size import ROOM
from kernelspan_agent.selftrace import span
from kernelspan_api.reasons import Reason

_LOAD_MAP_BYTES = 8
_LOG_HINT = "--log-level debug shows the verifier's whole log."


VERIFIERS = 2  # programs in the kernel's verifier at once


@dataclass(frozen=True, slots=True)
class Load:
    """A built module to be loaded.

    `kind`: bpf.PROG_*. `suffix`: goes behind the names of its programs, which may be loaded several times. `maps`: other names
    of maps, by which it does not share them with every module. `target`: what its programs are loaded for, where their kind does
    not say it all (functions.Placement); `targets`: of single ones, by name. `values`: the first values of arrays among its maps.
    """

    module: Mapping[str, Any]
    kind: int
    suffix: str = ""
    maps: Mapping[str, str] | None = None
    target: bpf.Target = bpf.ANYWHERE
    targets: Mapping[str, bpf.Target] | None = None
    values: Mapping[str, bytes] | None = None

    def map_name(self, name: str) -> str:
        """What a map of the module is called among all."""
        return (self.maps or {}).get(name, name)


class Loader:
    """The maps and programs of one agent."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """`sizes`: entries (bytes for the ring) of maps that are not as large as their C text says; of those with any suffix by
        their name and a dot.
        """
        self._sizes = sizes
        self.maps: dict[str, int] = {}
        self._shapes: dict[str, Mapping[str, int]] = {}
        self.programs: dict[str, int] = {}
        self._attachments: list[Attachment] = []

    def load(self, *loads: Load) -> None:
        """Loads the programs of built modules. Raises MachineError with the reason; none of them is loaded then."""
        wanted = []
        for load in loads:
            for name, shape in load.module["maps"].items():
                self.make_map(load.map_name(name), shape)
            for name, value in (load.values or {}).items():
                bpf.map_update(self.maps[load.map_name(name)], bytes(4), value)
            for name, program in load.module["programs"].items():
                target = (load.targets or {}).get(name, load.target)
                wanted.append((load.kind, self.relocated(name, program, load), name, target, name + load.suffix))
        wanted.sort(key=lambda each: -len(each[1]))  # the verifier's time: a walker's is as long as all the others'
        with ThreadPoolExecutor(VERIFIERS) as pool:
            tries = [(each[4], pool.submit(self._load_program, *each[:4])) for each in wanted]
        refused = [failure for _, done in tries if (failure := done.exception())]
        loaded = {name: done.result() for name, done in tries if not done.exception()}
        if refused:
            for fd in loaded.values():
                os.close(fd)
            raise refused[0]
        self.programs.update(loaded)

    def relocated(self, name: str, program: Mapping[str, Any], load: Load | None = None) -> bytes:
        """A built program's instructions with the descriptors of this loader's maps. Raises MachineError."""
        code = bytearray(base64.b64decode(program["instructions"]))
        for index, plain_name in program["relocations"]:
            map_name = load.map_name(plain_name) if load else plain_name
            if map_name not in self.maps:
                raise MachineError(f"{name} uses map {map_name}, which no module declares", reason="CompileFailed")
            struct.pack_into("<i", code, index * _LOAD_MAP_BYTES + 4, self.maps[map_name])
        return bytes(code)

    def unload(self, suffix: str) -> None:
        """Gives back the programs and maps that were loaded with this suffix; what is attached of them is not."""
        for found in (self.programs, self.maps):
            for name in [name for name in found if name.endswith(suffix)]:
                os.close(found.pop(name))
                self._shapes.pop(name, None)

    def make_map(self, name: str, shape: Mapping[str, int]) -> None:
        """Makes a map, unless it is there. Raises MachineError: it cannot be made, or is there with another shape."""
        known = self._shapes.get(name)
        if known is not None:
            if (known["type"], known["key"], known["value"]) != (shape["type"], shape["key"], shape["value"]):
                raise MachineError(f"two modules disagree about map {name}", reason="CompileFailed")
            return
        entries = self._sizes.get(name.partition(".")[0] + "." if "." in name else name, shape["entries"])
        create = partial(bpf.map_create, shape["type"], shape["key"], shape["value"], entries, shape["flags"], name)
        try:
            made = with_locked_memory(create)
        except PermissionError as error:
            raise not_permitted(f"map {name}") from error
        except OSError as error:
            hint = ROOM if name == "ks_ring" and error.errno == errno.ENOMEM else ""
            raise MachineError(f"map {name} ({entries} entries): {error.strerror}", hint=hint) from error
        self._shapes[name] = shape  # first: who finds the map in another thread asks for its shape
        self.maps[name] = made

    def _load_program(self, kind: int, code: bytes, name: str, target: bpf.Target) -> int:
        try:
            return with_locked_memory(partial(bpf.prog_load, kind, code, name, target))
        except OSError as error:
            if error.errno in {errno.EPERM, errno.EACCES} and not getattr(error, "log", ""):
                raise not_permitted(f"program {name}") from error
            raise _rejected(name, error) from error

    def value_bytes(self, name: str) -> int:
        """Size of a value of a map."""
        return int(self._shapes[name]["value"])

    def room(self, name: str) -> int:
        """How many values a map takes."""
        return int(self._shapes[name]["entries"])

    def link(self, array: str, index: int, program: str) -> None:
        """Makes `program` the one that a tail call to `index` of `array` reaches."""
        bpf.map_update(self.maps[array], struct.pack("<I", index), struct.pack("<I", self.programs[program]))

    def keep(self, attachment: Attachment) -> None:
        """Detaches `attachment` when this loader closes."""
        self._attachments.append(attachment)

    def detach(self) -> None:
        """Detaches every program; maps and programs stay, so counters can still be read."""
        if self._attachments:
            with span("agent.detach", attachments=len(self._attachments)):
                while self._attachments:
                    self._attachments.pop().close()

    def close(self) -> None:
        """Detaches and gives everything back."""
        self.detach()
        for fd in (*self.programs.values(), *self.maps.values()):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.programs.clear()
        self.maps.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def with_locked_memory(load: Callable[[], int]) -> int:
    """What `load` gives. Linux before 5.11 charges maps and programs as locked memory: refused, it is tried with more."""
    try:
        return load()
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if error.errno != errno.EPERM or soft == resource.RLIM_INFINITY or not _raise_locked_memory(hard):
            raise
    return load()


def _raise_locked_memory(hard: int) -> bool:
    for limit in (resource.RLIM_INFINITY, hard):  # beyond the hard limit only with CAP_SYS_RESOURCE
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return True
    return False


def _rejected(name: str, error: OSError) -> MachineError:
    log = getattr(error, "log", "")
    if READ_REFUSED.search(log):
        return MachineError(
            f"program {name}: the kernel's lockdown forbids programs to read kernel memory",
            reason="LockdownActive",
            hint="boot without lockdown=confidentiality; lockdown=integrity is fine",
        )
    words = ": ".join(filter(None, (f"program {name}", os.strerror(error.errno or 0), verdict(log))))
    hint = f"{Reason.VERIFIER_REJECTED.remedy} {_LOG_HINT}" if log else Reason.VERIFIER_REJECTED.remedy
    failure = MachineError(words, reason="VerifierRejected", hint=hint)
    failure.details = log
    return failure
