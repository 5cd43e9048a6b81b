# SPDX-License-Identifier: Apache-2.0
"""Roots of imaginary containers for these tests: files by path, distributions as installers leave them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.model import Library, Origin

SITE = "/app/venv/lib/python3.11/site-packages"
SECOND_NS = 1_000_000_000
LATER_NS = 4_000_000_000 * SECOND_NS  # long after every file of a test was made: all indexes are settled


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self, now_ns: int = LATER_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


class Container:
    """A root directory below `path`, and what is said of its files."""

    def __init__(self, path: Path, clock: Clock | None = None, **context: object) -> None:
        self.path = path
        self.libraries = Libraries(clock or Clock())
        self.context = LibraryContext("python", root=str(path), **{"version": (3, 11), **context})  # type: ignore[arg-type]

    def at(self, file: str) -> Path:
        return self.path / file.lstrip("/")

    def write(self, file: str, data: str | bytes = "") -> Path:
        target = self.at(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if isinstance(data, bytes) else data.encode())
        return target

    def link(self, file: str, target: str) -> None:
        self.at(file).parent.mkdir(parents=True, exist_ok=True)
        self.at(file).symlink_to(target)

    def install(self, name: str, version: str, files: Iterable[str], site: str = SITE, **extra: str) -> str:
        """Writes the files and a dist-info with RECORD; `extra` are more metadata files, `__` for `.` in their names."""
        folder = f"{site}/{name.replace('-', '_')}-{version}.dist-info"
        files = list(files)
        for file in files:
            self.write(f"{site}/{file}")
        self.write(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: no\n")
        own = folder.rpartition("/")[2]
        record = "".join(f'"{file}",sha256=x,1\n' if "," in file else f"{file},,\n" for file in files)
        self.write(f"{folder}/RECORD", f"{record}{own}/METADATA,,\n{own}/RECORD,,\n")
        for file, text in extra.items():
            self.write(f"{folder}/{file.replace('__', '.')}", text)
        return folder

    def zip(self, file: str, members: dict[str, str]) -> None:
        self.at(file).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.at(file), "w", zipfile.ZIP_DEFLATED) as archive:
            for member, text in members.items():
                archive.writestr(member, text)

    def classify(self, file: str) -> tuple[Origin, Library | None]:
        return self.libraries.classify(file, self.context)

    def origin(self, file: str) -> Origin:
        return self.classify(file)[0]

    def owner(self, file: str) -> str:
        """`name version` of the library, or the origin's value."""
        origin, library = self.classify(file)
        return f"{library.name} {library.version}" if library else origin.value
