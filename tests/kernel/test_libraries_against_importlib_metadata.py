# SPDX-License-Identifier: Apache-2.0
"""Names and versions of libraries against importlib.metadata, on real distributions: none wrong, none missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.model import Library, Origin
from tests.support.require import require
from tests.support.venvs import library_venv, site_packages
from tests.unit.libraries.making import Container

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "shop.Front"
version = "3.4"
scripts = {shop = "shop.main:where"}
"""
VERSION = sys.version_info[:2]
Owner = tuple[str, str]

# Imports what an application would, then says what file each function's code names, and each module.
LOADS = """
import gc, importlib, json, sys, types
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {item.__code__.co_filename: str(item.__module__) for item in gc.get_objects()
         if type(item) is types.FunctionType}
found.update((module.__file__, name) for name, module in list(sys.modules.items())
             if type(module) is types.ModuleType and vars(module).get("__file__"))
print(json.dumps([found, sys.base_prefix]), flush=True)
sys.stdin.read()
"""
MODULES = """
flask django.http fastapi uvicorn gunicorn.app.base requests httpx sqlalchemy.orm numpy.linalg pydantic jinja2
celery boto3 yaml ruamel.yaml google.cloud.storage google.api_core.retry zope.interface zope.event gevent
greenlet aiohttp rich.console click attr attrs cryptography.fernet lxml.etree redis six backports.tarfile
jaraco.functools jaraco.text opentelemetry.trace opentelemetry.sdk.trace setuptools wheel pip._vendor.urllib3
typing_extensions certifi
"""


@pytest.fixture(scope="module")
def venv() -> Path:
    """The application's environment, made at its first use on a machine."""
    return library_venv()


def recorded_owners(site: Path) -> dict[str, set[Owner]]:
    """Owners of each Python file that any distribution of `site` lists."""
    owners: dict[str, set[Owner]] = defaultdict(set)
    for distribution in distributions(path=[str(site)]):
        owner = (distribution.metadata["Name"], distribution.version)
        for file in distribution.files or ():
            if file.suffix in {".py", ".so"}:
                owners[os.path.normpath(site / file)].add(owner)
    return owners


def identity(library: Library | None) -> Owner | None:
    """What importlib.metadata, too, says of a library."""
    return (library.name, library.version) if library else None


def wrong_owners(owners: Mapping[str, set[Owner]], context: LibraryContext) -> dict[str, object]:
    """Files whose answer is not the one owner listed, or is any name where several are."""
    libraries = Libraries()
    wrong: dict[str, object] = {}
    for file, listed in owners.items():
        origin, library = libraries.classify(file, context)
        expected = next(iter(listed)) if len(listed) == 1 else None
        if origin is not Origin.LIBRARY or identity(library) != expected:
            wrong[file] = (listed, origin, library)
    return wrong


def test_every_file_of_every_distribution(venv: Path) -> None:
    """Each Python file that a RECORD lists belongs to the distribution that importlib.metadata says."""
    owners = recorded_owners(site_packages(venv))
    names = {name for listed in owners.values() for name, _ in listed}
    assert len(names) >= 60
    assert len(owners) > 3000
    assert wrong_owners(owners, LibraryContext("python", version=VERSION)) == {}


def test_every_file_under_another_root(venv: Path) -> None:
    """The same through a root that is not ours, as of a container: the paths are those inside it."""
    site = site_packages(venv)
    parent = str(venv.parent)
    owners = {file.removeprefix(parent): listed for file, listed in recorded_owners(site).items()}
    assert all(file.startswith(f"/{venv.name}/") for file in owners)
    assert wrong_owners(owners, LibraryContext("python", root=parent, version=VERSION)) == {}


@pytest.fixture(scope="module")
def application(venv: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """A running program that imported a lot: its pid, modules by the file they name, its interpreter's prefix."""
    command = [str(venv / "bin" / "python"), "-W", "ignore", "-c", LOADS, *MODULES.split()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        said = process.stdout.readline()
        assert said, "the program imported nothing"
        found, prefix = json.loads(said)
        yield process.pid, found, prefix
        process.stdin.close()


def test_what_a_running_program_imported(venv: Path, application: tuple[int, dict[str, str], str]) -> None:
    """By /proc/PID/root: the standard library is the runtime's, generated code nobody's, all else its distribution's."""
    pid, found, prefix = application
    listed = recorded_owners(site_packages(venv))
    context = LibraryContext("python", root=f"/proc/{pid}/root", version=VERSION)
    libraries = Libraries()
    wrong = []
    seen: Counter[Origin] = Counter()
    for file, module in found.items():
        origin, library = libraries.classify(file, context)
        if file in listed:
            right = origin is Origin.LIBRARY and {identity(library)} == listed[file]
        elif file.startswith(f"{prefix}/"):
            right = origin is Origin.RUNTIME
        else:
            stdlib = file.startswith("<frozen ") and module.partition(".")[0] in sys.stdlib_module_names
            right = library is None and origin is (Origin.RUNTIME if stdlib else Origin.UNKNOWN)
        if right:
            seen[origin] += 1
        else:
            wrong.append((module, file, origin, library))
    assert wrong == []
    assert seen[Origin.LIBRARY] > 1000
    assert seen[Origin.RUNTIME] > 100


TOP_LEVELS = """
import importlib.metadata as m, json
names = m.packages_distributions()
print(json.dumps({top: sorted({(d, m.version(d)) for d in found}) for top, found in names.items()}))
"""


def test_debians_own_packages() -> None:
    """In dist-packages, mostly without RECORD, a top-level name of one distribution is that distribution's."""
    site = Path("/usr/lib/python3/dist-packages")
    require("kernel", site.is_dir() and Path("/usr/bin/python3").exists(), "no Debian Python packages here")
    said = subprocess.run(["/usr/bin/python3", "-I", "-c", TOP_LEVELS], check=True, capture_output=True).stdout
    expected = json.loads(said)
    libraries, context = Libraries(), LibraryContext("python")
    wrong, known = [], 0
    for file in site.rglob("*.py"):
        top = file.relative_to(site).parts[0].removesuffix(".py")
        origin, library = libraries.classify(str(file), context)
        owners = [tuple(owner) for owner in expected.get(top, [])]
        if origin is not Origin.LIBRARY or (library and owners and identity(library) not in owners):
            wrong.append((file, owners, library))
        elif len(owners) == 1:
            wrong += [] if library else [(file, owners, None)]
            known += 1
    assert wrong == []
    assert known > 100


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one's own, ready to be installed."""
    folder = tmp_path / "source"
    (folder / "shop").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "main.py").write_text("def where():\n    print(where.__code__.co_filename)\n")
    return folder


def pip_install(venv: Path, *options: str, python: Path | None = None) -> None:
    """Runs the environment's pip without any network, by the setuptools that the environment holds."""
    command = [venv / "bin" / "python", "-m", "pip", *(["--python", python] if python else []), "install", "--quiet"]
    offline = ["--disable-pip-version-check", "--no-build-isolation", "--no-index", "--no-deps"]
    subprocess.run([*command, *offline, *options], check=True, timeout=120)


def test_an_editable_install_by_pip(venv: Path, project: Path, tmp_path: Path) -> None:
    """The author's own code and its script are the app's, the rest of the environment is not."""
    own = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True)
    (site_packages(own) / "tools.pth").write_text(f"{site_packages(venv)}\n")
    pip_install(venv, "--editable", str(project), python=own / "bin" / "python")
    file = subprocess.run([own / "bin" / "shop"], check=True, capture_output=True, text=True).stdout.strip()
    libraries, context = Libraries(), LibraryContext("python", version=VERSION)
    assert file == str(project / "shop" / "main.py")
    assert libraries.classify(file, context) == (Origin.APP, None)
    assert libraries.classify(str(own / "bin" / "shop"), context) == (Origin.APP, None)
    origin, library = libraries.classify(str(site_packages(venv) / "click" / "core.py"), context)
    assert origin is Origin.LIBRARY
    assert library is not None
    assert library.name == "click"


def test_a_target_directory_by_pip(venv: Path, project: Path, tmp_path: Path) -> None:
    """`pip install --target`: packages and script are the distribution's, what lies beside them is the app's."""
    target = tmp_path / "function"
    pip_install(venv, "--target", str(target), str(project))
    (target / "handler.py").touch()
    libraries, context = Libraries(), LibraryContext("python", version=VERSION)
    expected = (Origin.LIBRARY, Library("shop.Front", "3.4", "pkg:pypi/shop-front@3.4"))
    for file in ("shop/main.py", "bin/shop"):
        assert (target / file).exists()
        assert libraries.classify(str(target / file), context) == expected
    assert libraries.classify(str(target / "handler.py"), context) == (Origin.APP, None)


CHROOT = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); print(flush=True); sys.stdin.read()"


@pytest.mark.root
def test_a_process_with_a_root_of_its_own(tmp_path: Path) -> None:
    """Its paths, and the absolute links on them, are read below /proc/PID/root; ours by the same names are not."""
    box = Container(tmp_path / "box")
    box.install("inside", "1", ["inside/__init__.py"], site="/opt/site-packages")
    box.link("/srv/site-packages", "/opt/site-packages")
    Container(tmp_path).install("outside", "2", ["inside/__init__.py"], site="/opt/site-packages")
    command = [sys.executable, "-c", CHROOT, str(box.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "\n"
        libraries, context = Libraries(), LibraryContext("python", root=f"/proc/{process.pid}/root")
        for file in ("/opt/site-packages/inside/a.py", "/srv/site-packages/inside/a.py"):
            assert identity(libraries.classify(file, context)[1]) == ("inside", "1")
        assert libraries.classify(__file__, context) == (Origin.UNKNOWN, None)
        process.stdin.close()
