# SPDX-License-Identifier: Apache-2.0
"""Building families into the cache: `<cache>/kernelspan/tools/<family>-<key>/<binary>`.

The key is a hash of everything that decides the binaries: the family's files, the Go version and target, this build's
own flags. A folder appears under its key by one rename, when it is complete; builders of one family exclude each other
by a lock, so two runs at once build it once. Nothing is ever written into the checkout.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tools.errors import ToolError
from tools.families import TOOLS_FOLDER, Binary, Family, load_families, select
from tools.gotool import Go, Say, find_go, run

_BUILD_FLAGS = ("-trimpath", "-v")
_LINK_FLAGS = "-s -w"
_PINNED = ("go.mod", "go.sum")
_KEY_DIGITS = 16
_UNKEYED_SUFFIXES = frozenset({".md", ".pyc"})


def cache_folder(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/kernelspan/tools`, or below ~/.cache where that is unset or relative (as its standard says)."""
    base = environment.get("XDG_CACHE_HOME", "")
    home = environment.get("HOME") or "~"
    return (Path(base) if Path(base).is_absolute() else Path(home).expanduser() / ".cache") / "kernelspan" / "tools"


def build(
    names: tuple[str, ...], say: Say, environment: Mapping[str, str] | None = None, tools_folder: Path = TOOLS_FOLDER
) -> dict[str, Path]:
    """Builds what is missing of the named families or binaries (all for none): binary name to its path.

    Raises ToolError for an unknown name, without Go, or if a build fails; what was built before stays.
    """
    environment = os.environ if environment is None else environment
    paths: dict[str, Path] = {}
    for family in select(load_families(tools_folder), names):
        folder = _build_family(family, find_go(environment, family.folder), cache_folder(environment), say)
        paths |= {b.name: folder / b.name for b in family.binaries if not names or {b.name, family.name} & set(names)}
    return paths


def update(name: str, say: Say, environment: Mapping[str, str] | None = None) -> None:
    """Renews go.mod and go.sum of a family by its `update` commands, in a copy that is given up if one fails."""
    environment = os.environ if environment is None else environment
    (family,) = select(load_families(), (name,))
    go = find_go(environment, family.folder)
    go = replace(go, environment={**go.environment, "GOFLAGS": "-buildvcs=false -mod=mod"})
    with tempfile.TemporaryDirectory(prefix="kernelspan-tools-") as scratch:
        work = Path(scratch) / family.name
        shutil.copytree(family.folder, work)
        for command in family.update:
            run(go, command, work, family.name, Path(scratch) / "log", say)
        for pinned in _PINNED:
            shutil.copyfile(work / pinned, family.folder / pinned)


def key(family: Family, go: Go) -> str:
    """Hex digits that change whenever the family's binaries could."""
    facts = [go.version, go.os, go.arch, *_BUILD_FLAGS, _LINK_FLAGS]
    files = {
        path.relative_to(family.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(family.folder.rglob("*"))
        if path.is_file() and path.suffix not in _UNKEYED_SUFFIXES
    }
    return hashlib.sha256(json.dumps([facts, files], sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def _build_family(family: Family, go: Go, cache: Path, say: Say) -> Path:
    folder = _folder(family, go, cache)
    if _complete(family, folder):
        return folder
    with _alone(family, cache, say) as lock:
        if _complete(family, folder):
            return folder
        say(f"{family.name}: building {', '.join(b.name for b in family.binaries)} with {go.version}")
        workshop = cache / f".{family.name}"
        for leftover in (folder, workshop):  # of a build that was killed, or that somebody thinned out
            shutil.rmtree(leftover, ignore_errors=True)
        workshop.mkdir(exist_ok=True)
        try:
            scratch = Path(tempfile.mkdtemp(dir=workshop))
            _compile(family, go, scratch, cache / f"{family.name}.log", say, lock)
            (scratch / "out").rename(folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
        say(f"{family.name}: done, {folder}")
    return folder


def _compile(family: Family, go: Go, scratch: Path, log: Path, say: Say, lock: int) -> None:
    work, out = scratch / "work", scratch / "out"
    out.mkdir()
    log.unlink(missing_ok=True)
    shutil.copytree(family.folder, work)
    for command in family.generate:
        run(go, command, work, family.name, log, say, (lock,))
    # A generator may write its own go.mod: what is checked in is what counts.
    shutil.copytree(family.folder, work, dirs_exist_ok=True)
    for binary in family.binaries:
        run(go, _go_build(binary, out), work, binary.name, log, say, (lock,))
        if not (out / binary.name).is_file():
            raise ToolError(f"{binary.name}: go build made no such file", hint=f"the whole output is in {log}")


def _go_build(binary: Binary, out: Path) -> list[str]:
    link = f"{_LINK_FLAGS} {binary.ldflags}".strip()
    tags = [f"-tags={','.join(binary.tags)}"] if binary.tags else []
    return ["go", "build", *_BUILD_FLAGS, *tags, f"-ldflags={link}", "-o", str(out / binary.name), binary.package]


def _folder(family: Family, go: Go, cache: Path) -> Path:
    return cache / f"{family.name}-{key(family, go)}"


def _complete(family: Family, folder: Path) -> bool:
    return all(os.access(folder / binary.name, os.X_OK) for binary in family.binaries)


@contextlib.contextmanager
def _alone(family: Family, cache: Path, say: Say) -> Iterator[int]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{family.name}.lock").open("w")
    except OSError as error:
        raise ToolError(f"cannot write the cache folder: {error}", hint="set XDG_CACHE_HOME to a folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{family.name}: another process is building it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
