# SPDX-License-Identifier: Apache-2.0
"""Packages of any Debian suite, or of this machine's own sources, fetched and unpacked, never installed.

apt itself does it, in a state folder of its own: signatures and SHA256 sums are its affair, and the mirror is the one
that this machine's apt sources name.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.build import cache_folder
from tools.images import roots

OWN = "own"  # in place of a suite: what this machine's apt itself would install, of Ubuntu's packages on Ubuntu
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MERGED = ("bin", "sbin", "lib", "lib64")
_BASE = {"experimental": "sid"}  # suites that hold but a part
_DEPENDS = re.compile(r"^\s*(?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]+)$", re.MULTILINE)


class DebianError(Exception):
    """A suite or a package cannot be had on this machine; says why."""


class Suite:
    """apt's view of one suite, as long as the folder it lives in."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def fetch_with_dependencies(self, *packages: str) -> list[Path]:
        """The files of these packages and of all they need."""
        self._run("apt-get", "-q", "install", "--yes", "--download-only", *packages)
        return sorted((self._folder / "cache" / "archives").glob("*.deb"))

    def fetch(self, *packages: str) -> list[Path]:
        """The files of these packages alone."""
        into = self._folder / "fetched"
        into.mkdir(exist_ok=True)
        self._run("apt-get", "-q", "download", *packages, cwd=into)
        return sorted(into.glob("*.deb"))

    def fetch_source(self, *packages: str) -> list[Path]:
        """The upstream archives of these source packages, of a suite asked for with `source`."""
        into = self._folder / "fetched"
        into.mkdir(exist_ok=True)
        self._run("apt-get", "-q", "source", "--download-only", "--tar-only", *packages, cwd=into)
        return sorted(into.glob("*.orig.tar.*"))

    def depends(self, package: str) -> list[str]:
        """The names of what a package depends on."""
        return _DEPENDS.findall(self._run("apt-cache", "depends", package))

    def update(self) -> None:
        """Fetches the suite's list of packages."""
        self._run("apt-get", "-q", "update")

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        result = subprocess.run(
            command,
            env={**os.environ, "APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
        )
        if result.returncode:
            raise DebianError(f"{' '.join(command)}, suite {self.name}: {result.stderr.strip()[-300:]}")
        return result.stdout


@contextlib.contextmanager
def own_folder(root: Path, uid: int) -> Iterator[Path]:
    """A folder below a root's /tmp that belongs to this user, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=root / "tmp"))
    try:
        os.chown(folder, uid, uid)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def suite(name: str, scratch: Path, *, source: bool = False) -> Iterator[Suite]:
    """A suite's packages, or its source packages; what is fetched goes into a folder below `scratch` that ends with the block.

    Raises DebianError where this machine's apt knows no Debian mirror, or the mirror not the suite.
    """
    if shutil.which("apt-get") is None or not (name == OWN or has_mirror()):
        raise DebianError("this machine's apt names no Debian mirror")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as made:
        folder, mirror = Path(made), roots.mirror()
        kind = "deb-src" if source else "deb"
        names = (_BASE[name], name) if name in _BASE else () if name == OWN else (name,)
        _configure(folder, [f"{kind} [arch=amd64 signed-by={_KEYRING}] {mirror} {each} main\n" for each in names])
        found = Suite(name, folder)
        found.update()
        yield found


def has_mirror() -> bool:
    """Whether any suite of Debian can be had here."""
    return roots.mirror() is not None and _KEYRING.exists()


def kept_root(suite: str, name: str, packages: Sequence[str], proofs: Sequence[Sequence[str]], *, recipe: str) -> Path:
    """The root of these packages in the user's cache, made if it is not there, in which the commands `proofs` succeed.

    `recipe` is part of its name there: another one makes a new root. Raises DebianError where it cannot be had.
    """
    found = kept_at(suite, name, recipe=recipe)
    if os.geteuid():
        raise DebianError("chroot needs root")
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        make_root(suite, packages, found, proofs)
    return found


def kept_at(suite: str, name: str, *, recipe: str) -> Path:
    """Where `kept_root` has it, or would."""
    return cache_folder(os.environ).parent / "databases" / f"{suite}-{name}-{recipe}"


def make_root(name: str, packages: Sequence[str], root: Path, proofs: Sequence[Sequence[str]] = ()) -> None:
    """Makes a root of these packages of a suite and all they need, in which the commands `proofs` must succeed.

    Raises DebianError where it cannot be had.
    """
    with suite(name, root.parent) as apt, tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        made = Path(scratch, "root")
        for folder in _MERGED:
            (made / "usr" / folder).mkdir(parents=True)
            (made / folder).symlink_to(f"usr/{folder}")
        for folder in ("tmp", "proc", "dev"):
            (made / folder).mkdir()
        for package in apt.fetch_with_dependencies(*packages):
            unpack(package, made)
        for proof in proofs:
            subprocess.run(["chroot", str(made), *proof], check=True, capture_output=True)
        with contextlib.suppress(OSError):  # another session was faster
            made.rename(root)
    if not root.exists():
        raise DebianError(f"{root} could not be made")


def unpack(package: Path, root: Path) -> None:
    """Unpacks a package's files below `root`."""
    subprocess.run(["dpkg", "-x", str(package), str(root)], check=True, capture_output=True)


def _configure(folder: Path, sources: Sequence[str]) -> None:
    """Without `sources`: apt's own."""
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources" / "suite.list").write_text("".join(sources))
    named = {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": folder / "sources"} if sources else {}
    options = named | {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",  # the mirror may be a snapshot; the signature is checked all the same
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
    }
    (folder / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
