# SPDX-License-Identifier: Apache-2.0
"""Which images there are and how each is made: the product's by the Dockerfile, programs of tools/ by one file each.

Names and tag are those that the chart asks for. An image is made anew only where something that it is made of differs:
roots, wheels and programs are kept in the user's cache, the rest is docker's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.build import build, cache_folder
from tools.gotool import Say
from tools.images import wheels
from tools.images.docker import Docker
from tools.images.roots import key, root

CHECKOUT = Path(__file__).resolve().parents[2]
OPERATOR_PACKAGES = ("python3",)
AGENT_PACKAGES = ("python3", "python3-bpfcc", "linux-libc-dev", "ca-certificates")
_HERE = Path(__file__).parent
_SHOP = CHECKOUT / "kind-e2e/app"
_NOBODY = "65532:65532"
_MIB = 1 << 20


def version() -> str:
    """The project's version, which is the tag of its images."""
    return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def image_name(image: str) -> str:
    """What an image is called: `kernelspan/agent:0.1.0`; those that only tests run are kernelspan-e2e's."""
    return f"{'kernelspan-e2e' if image == 'shop' else 'kernelspan'}/{image}:{version()}"


def make(docker: Docker, images: Sequence[str], say: Say) -> dict[str, str]:
    """Makes these images (all of IMAGES for none): image to its full name. Raises ToolError where one cannot be made."""
    made = {}
    for image in images or tuple(IMAGES):
        started = time.monotonic()
        made[image] = name = image_name(image)
        before = docker.image_id(name)
        IMAGES[image](docker, name, say)
        if before and before != docker.image_id(name):
            docker.run("image", "rm", before, check=False)  # nobody's now, unless a container runs it
        size = docker.image_bytes(made[image]) / _MIB
        say(f"image {made[image]}: {size:.0f} MiB, {time.monotonic() - started:.0f} s")
    return made


def write_context(folder: Path, say: Say) -> None:
    """Fills a folder with all that the Dockerfile asks for, itself included."""
    for part in ("operator", "agent"):
        _write_part(folder, part, say)
        wheels.build_project(CHECKOUT, folder / part / "project")
    shutil.copy(CHECKOUT / "Dockerfile", folder)


def _operator(docker: Docker, name: str, say: Say) -> None:
    _product(docker, "operator", OPERATOR_PACKAGES, name, say)


def _agent(docker: Docker, name: str, say: Say) -> None:
    _product(docker, "agent", AGENT_PACKAGES, name, say)


def _product(docker: Docker, part: str, packages: Sequence[str], name: str, say: Say) -> None:
    base = _base(docker, packages, say)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.strip()
    arguments = {"BASE": base, "VERSION": version(), "REVISION": revision or "unknown"}
    with _context() as folder:
        _write_part(folder, part, say)
        wheels.build_project(CHECKOUT, folder / part / "project")
        options = [option for pair in arguments.items() for option in ("--build-arg", "=".join(pair))]
        # Without a network: what a build needs it was given.
        docker.build(CHECKOUT / "Dockerfile", folder, name, "--network=none", f"--target={part}", *options)


def _shop(docker: Docker, name: str, say: Say) -> None:
    """The sample application: the shop of the demo, with its price service and somebody who visits it."""
    base = _base(docker, OPERATOR_PACKAGES, say)
    with _context() as folder:
        _write_part(folder, "demo", say)
        shutil.copytree(CHECKOUT / "examples/demo/app", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(_SHOP / "visit.py", folder / "app")
        docker.build(_SHOP / "Dockerfile", folder, name, "--network=none", "--build-arg", f"BASE={base}")


def _collector(docker: Docker, name: str, say: Say) -> None:
    _program(docker, "otelcol", name, say)


def _jaeger(docker: Docker, name: str, say: Say) -> None:
    _program(docker, "jaeger", name, say)


def _program(docker: Docker, program: str, name: str, say: Say) -> None:
    """An image of one static program and a folder for temporary files."""
    path = build((program,), say)[program]
    label = f"io.kernelspan.made-of={path.parent.name}"
    if docker.run("image", "ls", "--quiet", "--filter", f"label={label}", name):
        return
    with _context() as folder:
        (folder / "tmp").mkdir(mode=0o1777)
        shutil.copy2(path, folder / program)
        docker.import_root(folder, name, [f'ENTRYPOINT ["/{program}"]', f"USER {_NOBODY}", f"LABEL {label}"])


IMAGES: dict[str, Callable[[Docker, str, Say], None]] = {
    "operator": _operator,
    "agent": _agent,
    "collector": _collector,
    "jaeger": _jaeger,
    "shop": _shop,
}


def _base(docker: Docker, packages: Sequence[str], say: Say) -> str:
    """The name of an image of a root with these packages, made if it is not there."""
    name = f"kernelspan-base:{key(packages)}"
    if not docker.image_id(name):
        docker.import_root(root(packages, say), name)
    return name


@contextlib.contextmanager
def _context() -> Iterator[Path]:
    """An empty folder for a build, gone with the block."""
    with tempfile.TemporaryDirectory(prefix="kernelspan-images-") as folder:
        yield Path(folder)


def _write_part(folder: Path, part: str, say: Say) -> None:
    """What one image installs: its lock, the wheels of it, and what installs them."""
    for script in ("slim", "install"):
        shutil.copy(_HERE / script, folder)
    lock = (CHECKOUT / "requirements" / f"{part}.txt").read_text("utf-8")
    (folder / part).mkdir()
    (folder / part / "requirements.txt").write_text(lock, "utf-8")
    shutil.copytree(_wheels(part, lock, say), folder / part / "wheels")
    everything = (CHECKOUT / "requirements/lock.txt").read_text("utf-8")
    shutil.copytree(_wheels("pip", wheels.entry(everything, "pip"), say), folder / part / "installer")


def _wheels(what: str, lock: str, say: Say) -> Path:
    """The folder of a lock's wheels, kept in the cache."""
    cache = cache_folder(os.environ).parent / "wheels"
    folder = cache / hashlib.sha256(lock.encode()).hexdigest()[:16]
    if not folder.is_dir():
        started = time.monotonic()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
            wheels.fetch(lock, Path(scratch) / "wheels")
            with contextlib.suppress(FileExistsError):  # somebody else was quicker
                (Path(scratch) / "wheels").rename(folder)
        say(f"wheels of {what}: {time.monotonic() - started:.0f} s")
    return folder
