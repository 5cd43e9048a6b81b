# SPDX-License-Identifier: Apache-2.0
"""Versions of Go, and the targets built by them.

The newest is the machine's own; the others are the toolchain modules that the go command itself would fetch, from the module
proxy that it is told of, checked by their sums, unpacked once into the user's cache folder.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.require import require
from tools.errors import ToolError
from tools.gotool import find_go

OWN = "own"
SUMS = {
    "1.18.10": "h1:DoRXEPy0iapMWDLF5FpN4nhL3wfwgijsGwcq45OMI08=",
    "1.19.13": "h1:+OmeJh7XWeMq4xTkHYEhIziJY/ifiVi4gcm2BWaUnyk=",
    "1.20.14": "h1:8qw1ZS9f0CG9ty0SLWhGEERyjMSNgfMIR+e1g5RRYb0=",
    "1.21.13": "h1:THKeCuuOK6mnQhbTbvvH9CKU3D4lwUERQax+yRXCVJk=",
    "1.22.12": "h1:Hdh4VJAlDWzMnhKpqDwqJJr+sE7NgsJ86dyR4wrv2oY=",
    "1.23.12": "h1:CQZ55qhuGAYcgv4npnr3DsfZP3i8URMjkpv7TYHRIH4=",
    "1.24.13": "h1:5sgfUhn9QCgVl4UYj32GrIYFHI3bi2UX55tNfupXwxc=",
    "1.25.9": "h1:vwejtYs6HA94+f0iP85chzxeCiCmEEG4GsK4W1moovI=",
}
TARGETS = Path(__file__).with_name("targets") / "go"
_LIBRARIES = {"lib": ("example.com/lib", "v1.2.3"), "fork": ("example.com/fork", "v1.1.0-beta.1")}
_SECONDS = 900


class GosError(Exception):
    """A version cannot be had on this machine; says why."""


@dataclass(frozen=True)
class Go:
    """The go command of one version, and its environment."""

    label: str
    command: str
    environment: dict[str, str]

    def run(self, *arguments: str, folder: Path, environment: dict[str, str] | None = None) -> str:
        """Its output. Raises GosError with what it said."""
        done = subprocess.run(
            [self.command, *arguments],
            cwd=folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise GosError(f"go {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout


def wanted() -> list[str]:
    """Labels of the versions that tests run against: the oldest and the machine's own; all for KERNELSPAN_MATRIX."""
    return [*SUMS, OWN] if os.environ.get("KERNELSPAN_MATRIX") else [next(iter(SUMS)), OWN]


def needed(label: str) -> Go:
    """The Go with this label; where it cannot be had the test is left out, or fails if all was promised."""
    try:
        return go(label)
    except (GosError, ToolError) as error:
        require("kernel", False, str(error))
        raise


@functools.cache
def go(label: str) -> Go:
    """The Go with this label, fetched and unpacked if it is not there. Raises GosError, ToolError."""
    found = find_go({**os.environ, "GOTOOLCHAIN": "local"}, TARGETS / "lib")
    own = Go(OWN, str(found.command), {**found.environment, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"})
    if label == OWN:
        return own
    made = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "gos" / label
    if not made.exists():
        _fetch(own, label, made)
    environment = {**own.environment, "GOROOT": str(made), "GOFLAGS": ""}
    return Go(label, str(made / "bin" / "go"), environment)


def _fetch(own: Go, label: str, made: Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    module = f"golang.org/toolchain@v0.0.1-go{label}.linux-amd64"
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        environment = {"GOMODCACHE": f"{folder}/modules", "GOFLAGS": "-modcacherw"}
        said = json.loads(own.run("mod", "download", "-json", module, folder=Path(folder), environment=environment))
        if said["Sum"] != SUMS[label]:
            raise GosError(f"{module} has the sum {said['Sum']}")
        unpacked = Path(said["Dir"])
        for tool in [*(unpacked / "bin").iterdir(), *(unpacked / "pkg" / "tool" / "linux_amd64").iterdir()]:
            tool.chmod(0o755)
        try:
            unpacked.rename(made)
        except OSError:  # another session was faster
            if not made.exists():
                raise


def sources(folder: Path) -> dict[str, str]:
    """Copies of all targets in a folder, with a module proxy for their libraries; the environment to build them in."""
    for each in ("truth", "local", "callback"):
        shutil.copytree(TARGETS / each, folder / each)
    shutil.copy(TARGETS / "truth" / "said.go", folder / "callback")
    for name, (module, version) in _LIBRARIES.items():
        at = folder / "proxy" / module / "@v"
        at.mkdir(parents=True)
        (at / "list").write_text(f"{version}\n")
        (at / f"{version}.info").write_text(json.dumps({"Version": version}))
        shutil.copy(TARGETS / name / "go.mod", at / f"{version}.mod")
        with zipfile.ZipFile(at / f"{version}.zip", "w") as archive:
            for file in sorted((TARGETS / name).rglob("*")):
                if file.is_file():
                    archive.write(file, f"{module}@{version}/{file.relative_to(TARGETS / name)}")
    return {
        "GOPROXY": f"file://{folder}/proxy",
        "GONOSUMDB": "*",
        "GOFLAGS": "-mod=mod -modcacherw -buildvcs=false",
        "GOMODCACHE": str(folder / "modules"),
    }


def build(go: Go, folder: Path, target: str, environment: dict[str, str], *flags: str) -> Path:
    """A target built in a folder of `sources`. Raises GosError."""
    made = folder / f"{target}-{go.label}-{abs(hash(flags)):x}"
    go.run("build", *flags, "-o", str(made), ".", folder=folder / target, environment=environment)
    return made
