# SPDX-License-Identifier: Apache-2.0
"""The library and version that spans bear, on an application of many PyPI distributions: none wrong, by importlib.metadata.

The program says itself, by an audit hook on the very call, which file each of its opens was asked for from: the innermost of
its stack that lies among its distributions. Whose file that is, and of which version, importlib.metadata says.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from kernelspan_api import semconv
from tests.kernel.test_libraries_against_importlib_metadata import Owner, recorded_owners
from tests.support.runs import TIMEOUT_SECONDS, UNLIMITED, attached, profile
from tests.support.venvs import library_venv, site_packages

pytestmark = pytest.mark.root
PROGRAM = """
import importlib, json, sys
site, out, said = sys.argv[1] + "/", sys.argv[2], []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith("/"):
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(site):
            frame = frame.f_back
        said.append((arguments[0], frame.f_code.co_filename if frame else ""))
print("ready", flush=True)
sys.stdin.readline()
sys.addaudithook(hook)
for name in sys.argv[3:]:
    importlib.import_module(name)
heard = said[:]
with open(out, "w") as file:
    json.dump(heard, file)
"""
MODULES = """
flask requests httpx pydantic yaml ruamel.yaml zope.interface aiohttp rich.console cryptography.fernet redis jaraco.text
backports.tarfile opentelemetry.sdk.trace setuptools uvicorn google.api_core.retry google.cloud.storage celery
gunicorn.app.base gevent pip._vendor.urllib3 attr
"""
NOBODY: Owner = ("", "")


def test_every_open_bears_the_library_that_asked_for_it(tmp_path: Path) -> None:
    """A thousand of them, of more than 40 distributions, each by its own name and version; none for what is the program's own."""
    venv, said = library_venv(), tmp_path / "said.json"
    site = site_packages(venv)
    (tmp_path / "app.py").write_text(PROGRAM)
    spec = profile(
        tmp_path, files={"operations": ["Open"]}, code={"functions": False, "maxDepth": 127}, limits=UNLIMITED
    )
    command = [venv / "bin" / "python", "-W", "ignore", tmp_path / "app.py", site, said, *MODULES.split()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        with attached(
            tmp_path, spec, "--pid", str(program.pid)
        ) as agent:  # known before it goes on: nothing is pending
            program.communicate(b"\n", timeout=TIMEOUT_SECONDS)
            ran = agent.finish()
    assert (ran.status, program.returncode) == (0, 0), ran.stderr
    listed = recorded_owners(site)
    expected: dict[str, Counter[Owner]] = defaultdict(Counter)
    for path, file in json.loads(said.read_text()):
        (owner,) = listed[file] if file else {NOBODY}
        expected[path][owner] += 1
    shown: dict[str, Counter[Owner]] = defaultdict(Counter)
    for span in ran.operations:
        name, version = (str(span.attributes.get(key, "")) for key in (semconv.LIBRARY_NAME, semconv.LIBRARY_VERSION))
        shown[str(span.attributes.get(semconv.FILE_PATH))][name, version] += 1
    # More where the interpreter opens without telling the hook: archives, for zipimport.
    wrong = {path: (said, shown[path]) for path, said in expected.items() if not _agrees(said, shown[path])}
    assert wrong == {}
    libraries = {owner for said in expected.values() for owner in said} - {NOBODY}
    assert len(libraries) >= 40
    assert sum(map(Counter.total, expected.values())) > 900


def _agrees(said: Counter[Owner], shown: Counter[Owner]) -> bool:
    return said.keys() == shown.keys() and said <= shown
