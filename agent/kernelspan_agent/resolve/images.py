# SPDX-License-Identifier: Apache-2.0
"""What lets the kernel recognise a runtime's file by itself in the next process: see bpf/include/image.h."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kernelspan_agent.process import files, procfs
from kernelspan_agent.process.elf import first_code, first_mapped, read_elf
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.resolve.kernel import EXECUTABLE, Image
from kernelspan_agent.runtimes import registry

if TYPE_CHECKING:
    from kernelspan_agent.resolve.kernel import Kernel
    from kernelspan_agent.runtimes.look import FileCache
    from kernelspan_agent.runtimes.registry import DetectedRuntime

MAX_IMAGES = 256
_START_CODE = 26 - 3  # proc(5): field 26 of stat, counted from the state, field 3


class KnownImages(OrderedDict[Image, "DetectedRuntime"]):
    """What was found in files, the first going first: a node that builds programs has new ones all the time.

    `by_layout`: runtimes by the number that records of stacks give to their layout: of a process that ended before anybody
    looked at it, that is all there is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_layout: dict[int, DetectedRuntime] = {}

    def __setitem__(self, image: Image, found: DetectedRuntime) -> None:
        super().__setitem__(image, found)
        while len(self) > MAX_IMAGES:
            self.popitem(last=False)

    def add(self, image: Image | None, found: DetectedRuntime, kernel: Kernel) -> None:
        """Tells the kernel of a file, once."""
        if image is not None and image not in self:
            self[image] = found
            if kernel.walks(found.number):
                self._tell_of(image, found, kernel)

    def _tell_of(self, image: Image, found: DetectedRuntime, kernel: Kernel) -> None:
        kernel.know_image(image, number=found.number, layout=found.layout)
        self.keep_layout(found, kernel)

    def keep_layout(self, found: DetectedRuntime, kernel: Kernel) -> None:
        """The kernel was given a runtime's layout. Where builds share one, only what their versions share is known of it."""
        if (layout := kernel.layout_id(found.layout)) is not None:
            before = self.by_layout.get(layout, found)
            self.by_layout[layout] = replace(found, version=_shared(before.version, found.version))

    def learn(self, process: procfs.Process, found: DetectedRuntime, kernel: Kernel) -> None:
        """Tells the kernel of the file that a process's runtime is in."""
        with contextlib.suppress(ProcessError, OSError):
            self.add(image_of(process, found), found, kernel)

    def tell(self, number: int, kernel: Kernel) -> None:
        """The kernel can walk a runtime from now on."""
        for image, found in self.items():
            if found.number == number:
                self._tell_of(image, found, kernel)

    def foresee(self, path: str, cache: FileCache, kernel: Kernel, *, library: bool) -> None:
        """Tells the kernel what a program, or a library, that nobody may have run yet holds, where its file alone says it."""
        with contextlib.suppress(OSError, ProcessError), open(path, "rb") as file:  # noqa: PTH123
            found = registry.foresee(file.fileno(), cache)
            if found is not None:
                status = os.fstat(file.fileno())
                device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
                where = (status.st_ino, status.st_size, int(status.st_mtime), device)
                elf = read_elf(file.fileno())
                origin, offset = (first_mapped(elf), 0) if library else (first_code(elf), EXECUTABLE)
                self.add(Image(*where, found.address - origin, offset), found, kernel)


def image_of(process: procfs.Process, found: DetectedRuntime) -> Image | None:
    """The file of a detected runtime; None where it is mapped in a way that cannot be foretold, or is not where it was.

    A process may have become another program since it was looked at, of the same file at another address: what lies at the old
    one would be taken for the runtime of all that come. So the mappings are read last. Raises ProcessError, OSError.
    """
    executable, _ = procfs.read_executable(process)
    is_program = executable == found.file
    start_code = _start_code(process) if is_program else 0
    mappings = [mapping for mapping in procfs.read_maps(process) if mapping.path == found.file and mapping.is_file]
    first = min(mappings, key=lambda mapping: mapping.start, default=None)
    if first is None or first.deleted or first.offset or first.start != found.start:
        return None
    with files.open_mapping(process, first) as fd:
        status = os.fstat(fd)
    origin = start_code if is_program else first.start
    if not origin:
        return None
    return Image(
        first.inode,
        status.st_size,
        int(status.st_mtime),
        first.device[0] << 20 | first.device[1],
        found.address - origin,
        EXECUTABLE if is_program else 0,
    )


def _shared(version: str, other: str) -> str:
    """What two versions begin with: "8.2" of "8.2.1" and "8.2.7"."""
    parts = zip(version.split("."), other.split("."), strict=False)
    return ".".join(part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))


def _start_code(process: procfs.Process) -> int:
    """Where the program's first code lies; 0: the kernel does not tell."""
    text = (Path(process.path) / "stat").read_bytes()
    start = int(text.rpartition(b")")[2].split()[_START_CODE])
    return start if start > 1 else 0
