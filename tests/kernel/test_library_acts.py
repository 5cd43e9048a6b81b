# SPDX-License-Identifier: Apache-2.0
"""What libraries do, told at the end of a run and by `kernelspan libraries`: against the spans, and against the program.

Every number is held against the operations' spans, which say their library by themselves; names, versions and what is
loaded against importlib.metadata; what a library must have done against the program that made it do that.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_agent.cli import behaviour
from kernelspan_agent.control.metrics import Metrics
from kernelspan_agent.resolve.touched import Touched
from tests.support import php_runs, phps, truth
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import KERNELSPAN, UNLIMITED, operation_of, profile, run
from tests.support.venvs import library_venv, site_packages

pytestmark = pytest.mark.root
EVERYTHING = {"files": {}, "network": {}, "processes": {}, "code": {}, "limits": UNLIMITED}
TRIES = 7

# An application of many distributions: it loads them, and makes some of them do what it says.
APPLICATION = """
import asyncio, importlib, json, os, sys, time
tries, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for name in sys.argv[4:]:
    importlib.import_module(name)
import jinja2, redis, requests, yaml
environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), cache_size=0)
def work():
    for _ in range(tries):
        try:
            redis.Redis("127.0.0.1", port, socket_connect_timeout=None, socket_timeout=None, retry=None).ping()
        except redis.exceptions.ConnectionError:
            pass
        environment.get_template("page.html").render()
        with open(folder + "/plain.yaml") as file:
            yaml.safe_load(file)
    try:
        requests.get(f"http://127.0.0.1:{port}/")
    except requests.exceptions.ConnectionError:
        pass
"""
ONCE = "work()\n"
FOR_EVER = """
work()
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
print(json.dumps(sorted(filter(None, files))), flush=True)
while True:
    work()
    time.sleep(0.01)
"""
MODULES = ["flask", "httpx", "sqlalchemy", "pydantic", "rich.console", "lxml.etree", "opentelemetry.sdk.trace", "numpy"]


@pytest.fixture(scope="module")
def venv() -> Path:
    """The application's environment, made at its first use on a machine."""
    return library_venv()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What the application reads."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "page.html").write_text("hello")
    (folder / "plain.yaml").write_text("a: 1\n")
    return folder


def application(folder: Path, last: str, name: str = "app.py") -> Path:
    """The application in a file of its own."""
    path = folder / name
    path.write_text(APPLICATION + last)
    return path


def closed_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


Counts = dict[str, Counter[str]]


def said_by_spans(spans: Iterable[ReceivedSpan]) -> tuple[Counts, Counts, Counts, Counts]:
    """By the library's package URL, empty for none: operations and failures by kind, folders, destinations."""
    kinds, failures, folders, destinations = Counts(), Counts(), Counts(), Counts()
    for span in spans:
        if not operation_of(span):
            continue
        whose = str(span.attributes.get("kernelspan.library.purl", ""))
        head, _, rest = span.name.partition(".")
        name = f"socket.{rest}" if head in ("tcp", "udp", "unix", "icmp") else span.name
        kinds.setdefault(whose, Counter())[name] += 1
        if span.status == "ERROR":
            failures.setdefault(whose, Counter())[name] += 1
        if path := str(span.attributes.get("file.path", "")):
            folder = path.rpartition("/")[0] + "/" if path.startswith("/") else "(no root)"
            folders.setdefault(whose, Counter())[folder] += 1
        if peer := span.attributes.get("network.peer.address"):
            port = span.attributes.get("network.peer.port")
            text = f"{peer}:{port}" if port else f"unix:{peer}"
            destinations.setdefault(whose, Counter())[text] += 1
    return kinds, failures, folders, destinations


def rows(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is reported, by package URL; empty: no library."""
    every = {each["purl"]: each for each in found["libraries"] if each["operations"]}
    assert len(every) == sum(bool(each["operations"]) for each in found["libraries"])
    return every | {"": found["noLibrary"]}


def is_coarser(shown: list[Mapping[str, Any]], exact: Mapping[str, int]) -> bool:
    """Whether every folder's operations are at it or at one above it, and add up."""
    left = Counter(exact)
    for each in sorted(shown, key=lambda one: -len(one["folder"])):
        below = {folder: count for folder, count in left.items() if folder.startswith(each["folder"])}
        if sum(below.values()) != each["operations"]:
            return False
        for folder in below:
            del left[folder]
    return not left


def assert_as_spans(found: Mapping[str, Any], spans: Iterable[ReceivedSpan]) -> None:
    """Every number of the report is that of the spans."""
    kinds, failures, folders, destinations = said_by_spans(spans)
    reported = rows(found)
    assert {whose: each["byKind"] for whose, each in reported.items()} == kinds
    assert {whose: each["failuresByKind"] for whose, each in reported.items() if each["failures"]} == failures
    assert found["operations"] == sum(each["operations"] for each in reported.values())
    assert found["otherLibraries"]["operations"] == 0
    for whose, each in reported.items():
        assert is_coarser(each["folders"], folders.get(whose, {})), (whose, each["folders"], folders.get(whose))
        shown = {one["destination"]: one["operations"] for one in each["destinations"]}
        assert shown == destinations.get(whose, {}), whose
        assert each["operations"] == sum(each["byKind"].values())
        if whose:
            assert each["inStack"] >= each["operations"]


def test_an_application_of_many_libraries(venv: Path, site: Path, tmp_path: Path) -> None:
    """The report is exactly what the spans say; versions are pip's; who did what is what the program made them do."""
    port = closed_port()
    command = [
        venv / "bin" / "python",
        "-W",
        "ignore",
        application(tmp_path, ONCE),
        str(TRIES),
        str(port),
        site,
        *MODULES,
    ]
    ran = run(tmp_path, profile(tmp_path, **EVERYTHING), *command)
    assert ran.status == 0, ran.stderr
    found = ran.report["libraries"]
    assert found["operations"] == ran.balance["exported"] > 2000
    assert_as_spans(found, ran.spans)
    installed = {one.metadata["Name"]: one.version for one in distributions(path=[str(site_packages(venv))])}
    named = {each["name"]: each for each in found["libraries"]}
    assert len(named) >= 20
    assert {name: each["version"] for name, each in named.items()}.items() <= installed.items()
    assert named["redis"]["byKind"]["socket.connect"] == TRIES
    assert named["redis"]["failuresByKind"]["socket.connect"] == TRIES
    assert {each["destination"] for each in named["redis"]["destinations"]} == {f"127.0.0.1:{port}"}
    assert named["urllib3"]["failuresByKind"]["socket.connect"] == 1
    assert "socket.connect" not in named["requests"]["byKind"]  # it is urllib3 that connects
    assert named["requests"]["inStack"] > named["requests"]["operations"]
    opened = [span for span in ran.spans if span.attributes.get("file.path") == f"{site}/page.html"]
    assert {span.attributes.get("kernelspan.library.name") for span in opened} == {"Jinja2"}
    assert Counter(span.name for span in opened)["file.open"] == TRIES
    table = ran.stderr[ran.stderr.index("libraries  ") :]
    assert f"to 127.0.0.1:{port} " in table
    assert "pkg:pypi/redis@" in table


def test_sampling_hides_no_library(venv: Path, site: Path, tmp_path: Path) -> None:
    """What was sampled out was done all the same: counted are all that were exported and all that were sampled out."""
    spec = {**EVERYTHING, "sampling": {"percent": 30}, "correlation": {"orphans": "Root"}}
    command = [venv / "bin" / "python", application(tmp_path, ONCE), str(TRIES), str(closed_port()), site]
    ran = run(tmp_path, profile(tmp_path, **spec), *command)
    assert ran.status == 0, ran.stderr
    counted = ran.report["libraries"]["operations"]
    assert counted == ran.balance["exported"] + ran.balance["sampledOut"]
    assert ran.balance["sampledOut"] > counted / 2
    named = {each["name"]: each for each in ran.report["libraries"]["libraries"]}
    assert named["redis"]["byKind"]["socket.connect"] == TRIES


def test_without_stacks_there_is_no_library(tmp_path: Path) -> None:
    """All is counted at none, and the table says so."""
    ran = run(tmp_path, profile(tmp_path, files={}), "/usr/bin/python3", "-c", "import json")
    found = ran.report["libraries"]
    assert found["operations"] == found["noLibrary"]["operations"] == ran.balance["exported"] > 50
    assert found["libraries"] == []
    assert_as_spans(found, ran.spans)


# --- PHP ----------------------------------------------------------------------------------------------------------

READER = """<?php
namespace Acme;
class Reader {
  public static function read($folder, $count) {
    for ($i = 0; $i < $count; $i++) {
      file_get_contents("$folder/data.txt");
      @file_get_contents("$folder/absent.txt");
    }
  }
}
"""
CLIENT = """<?php
namespace Acme;
class Client {
  public static function call($port, $count) {
    for ($i = 0; $i < $count; $i++) {
      @stream_socket_client("tcp://127.0.0.1:$port");
    }
  }
}
"""
PHP_APPLICATION = """<?php
$folder = __DIR__;
require "$folder/vendor/acme/reader/src/Reader.php";
require "$folder/vendor/acme/client/src/Client.php";
echo "ready\\n";
fgets(STDIN);
Acme\\Reader::read($folder, (int)$argv[1]);
Acme\\Client::call($argv[2], (int)$argv[1]);
file_get_contents("$folder/data.txt");
"""


def composer_project(folder: Path) -> Path:
    """An application and two packages as Composer 2 lays them out."""
    packages = []
    for name, version, text in (("reader", "2.1.0", READER), ("client", "v1.0.3", CLIENT)):
        source = folder / "vendor" / "acme" / name / "src"
        source.mkdir(parents=True)
        (source / f"{name.title()}.php").write_text(text)
        packages.append({"name": f"acme/{name}", "version": version, "install-path": f"../acme/{name}"})
    (folder / "vendor" / "composer").mkdir()
    (folder / "vendor" / "composer" / "installed.json").write_text(json.dumps({"packages": packages}))
    (folder / "data.txt").write_text("x")
    (folder / "app.php").write_text(PHP_APPLICATION)
    return folder / "app.php"


def test_packages_of_composer_and_metrics(tmp_path: Path) -> None:
    """As the spans say, in the report and in /metrics; each package did what the script made it do, nothing else."""
    php = php_runs.needed(php_runs.wanted_phps()[1])
    port = closed_port()
    with php_runs.folder_in(php) as (folder, inside):
        composer_project(folder)
        options = phps.options(php_runs.version_of(php))
        with (
            php.running(*options, f"{inside}/app.php", str(TRIES), str(port)) as program,
            truth.open_app(
                tmp_path / "spans.jsonl", truth.PROFILE.replace("{operations: [Read, Stat]}", "{}\n  network: {}")
            ) as app,
        ):
            assert program.line() == "ready"
            app.only.touched = Touched()
            app.select(program.pid, "php")
            php_runs.wait_for_walker(app)
            program.go_on(b"\n")
            truth.run_until(app, lambda: program.started.poll() is not None)
            app.end(10.0)
            found, exported = behaviour.report(app), app.accounting().exported
            scraped = series(Metrics(app).text())
    spans = truth.read_spans(tmp_path / "spans.jsonl")
    assert_as_spans(found, spans)
    assert found["operations"] == exported
    named = {each["purl"]: each for each in found["libraries"]}
    assert set(named) == {"pkg:composer/acme/reader@2.1.0", "pkg:composer/acme/client@v1.0.3"}
    reader, client = named["pkg:composer/acme/reader@2.1.0"], named["pkg:composer/acme/client@v1.0.3"]
    assert reader["byKind"]["file.open"] == 2 * TRIES
    assert reader["failuresByKind"]["file.open"] == TRIES
    assert [each["folder"] for each in reader["folders"]] == [f"{inside}/"]
    assert client["byKind"]["socket.connect"] == TRIES
    assert [each["destination"] for each in client["destinations"]] == [f"127.0.0.1:{port}"]
    expected = {("acme/reader", "2.1.0", kind): count for kind, count in reader["byKind"].items()}
    expected |= {("acme/client", "v1.0.3", kind): count for kind, count in client["byKind"].items()}
    expected |= {("", "", kind): count for kind, count in found["noLibrary"]["byKind"].items()}
    assert scraped == expected
    assert sum(scraped.values()) == exported


def series(text: bytes) -> dict[tuple[str, str, str], float]:
    """kernelspan_library_operations_total of an exposition."""
    return {
        (one.labels["library"], one.labels["version"], one.labels["operation"]): one.value
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
        if one.name == "kernelspan_library_operations_total"
    }


# --- kernelspan libraries -----------------------------------------------------------------------------------------


def libraries(*options: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run([KERNELSPAN, "libraries", *options], capture_output=True, text=True, timeout=120, check=False)


def owners(folder: Path) -> dict[str, str]:
    """The distribution that lists a file, of those that one alone lists."""
    listed: dict[str, set[str]] = {}
    for distribution in distributions(path=[str(folder)]):
        for file in distribution.files or ():
            path = os.path.normpath(folder / file)
            listed.setdefault(path, set()).add(f"{distribution.metadata['Name']} {distribution.version}")
    return {path: next(iter(names)) for path, names in listed.items() if len(names) == 1}


def test_what_a_running_application_has_loaded_and_does(venv: Path, site: Path, tmp_path: Path) -> None:
    """Loaded: exactly whose modules it says it has. Acted: those that it makes act, while it runs on."""
    port = closed_port()
    command = [venv / "bin" / "python", "-W", "ignore", application(tmp_path, FOR_EVER), "1", str(port), site, *MODULES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            files = json.loads(program.stdout.readline())
            ran = libraries("--pid", str(program.pid), "--duration", "3", "--json")
            shown = libraries("--pid", str(program.pid), "--duration", "0")
            assert program.poll() is None  # neither has harmed it
        finally:
            program.kill()
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    (process,) = found["processes"]
    assert process["pid"] == program.pid
    assert process["modules"] == len(files)
    listed = owners(site_packages(venv))
    expected = {listed[file] for file in files if file in listed}
    rows = {f"{each['name']} {each['version']}": each for each in found["libraries"]}
    assert {name for name, each in rows.items() if "module" in each["loaded"]} == expected
    assert len(expected) >= 20
    acted = {name.split()[0] for name, each in rows.items() if each["operations"]}
    assert acted == {"redis", "Jinja2", "urllib3", "requests", "PyYAML"}
    assert rows[next(name for name in rows if name.startswith("redis "))]["failuresByKind"]["socket.connect"] > 0
    total = sum(each["operations"] for each in found["libraries"]) + found["noLibrary"]["operations"]
    assert total == found["operations"] == found["accounting"]["exported"]
    assert found["accounting"]["unaccounted"] == 0
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout.replace("\n  ", " ") for name in expected)
    assert "traced " not in shown.stdout


def test_what_php_has_included() -> None:
    """Packages of Composer by the files of the request at hand, though they do nothing."""
    php = php_runs.needed(php_runs.wanted_phps()[-1])
    with php_runs.folder_in(php) as (folder, inside):
        composer_project(folder)
        with php.running(*phps.options(php_runs.version_of(php)), f"{inside}/app.php", "1", "9") as program:
            assert program.line() == "ready"
            ran = libraries("--pid", str(program.pid), "--duration", "0", "--json")
    found = json.loads(ran.stdout)
    assert found["processes"][0]["modules"] == 3
    names = {each["purl"]: each["loaded"] for each in found["libraries"]}
    assert names["pkg:composer/acme/reader@2.1.0"] == ["module"]
    assert names["pkg:composer/acme/client@v1.0.3"] == ["module"]


def test_what_cannot_be_looked_at() -> None:
    """No such process: 2. A native program: its operations are its own or the C library's."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    ran = libraries("--pid", str(gone.pid))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "there is no such process" in ran.stderr
    with subprocess.Popen(["/bin/sh", "-c", "while :; do : < /etc/hostname; sleep 0.01; done"]) as program:
        try:
            ran = libraries("--pid", str(program.pid), "--duration", "0.5", "--json")
        finally:
            program.kill()
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["processes"][0]["runtime"] == "native"
    assert found["noLibrary"]["byKind"]["file.open"] > 0
    assert found["libraries"] == []
