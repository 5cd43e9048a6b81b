# SPDX-License-Identifier: Apache-2.0
"""Kafka's own broker, by its project's jars, each run alone with its controller; and its own log of the requests it has answered."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import databases, javas, venvs
from tests.support.ports import PortReservation
from tests.support.require import require

_SOURCES = Path(__file__).with_name("kafka")
_SUMS = _SOURCES / "jars.sha256"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
_TIMEOUT_SECONDS = 400
_LOGGER = "org.slf4j.simpleLogger"
MOST_BYTES = 100_000  # of a message that the broker takes
_SETTINGS = f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{{controller}}
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={{folder}}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes={MOST_BYTES}
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """One that is made. `command` runs it; `log`: what it says of the requests that it has answered."""

    port: int
    folder: Path
    command: list[str | Path]

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its requests, in the order of their answers."""
        lines = (self.folder / "requests").read_text().splitlines(keepends=True)
        lines = [line for line in lines if line.endswith("\n")]  # the last is still being written
        return [json.loads(line.partition("Completed request:")[2]) for line in lines if "Completed request:" in line]


def python() -> Path:
    """The Python of a virtual environment that has clients of Kafka."""
    return venvs.library_venv(Path(__file__).with_name("kafka_venv.txt")) / "bin" / "python"


@functools.cache
def jars() -> Path:
    """The folder of the broker's jars, fetched if it is not there; they are those of jars.sha256."""
    found = _cache_folder() / f"kafka-{hashlib.sha256(_SUMS.read_bytes()).hexdigest()[:16]}"
    if found.exists():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
        made = Path(scratch, "jars")
        command = [_tool("mvn"), "-q", "-B", "-f", str(_SOURCES / "pom.xml"), _PLUGIN]
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={made}"]
        subprocess.run([*command, *options], check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        sums = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in made.iterdir()}
        assert sums == {name: said for said, name in map(str.split, _SUMS.read_text().splitlines())}
        with contextlib.suppress(OSError):  # another session was faster
            made.rename(found)
    return found


@functools.cache
def classes() -> Path:
    """The folder of the client that is written in Java."""
    source = Path(__file__).with_name("programs") / "KafkaClient.java"
    digest = hashlib.sha256(source.read_bytes() + _SUMS.read_bytes()).hexdigest()[:16]
    found = _cache_folder() / f"kafka-client-{digest}"
    if not found.exists():
        javas.compile_java([source], found, "-cp", f"{jars()}/*", release=11)
    return found


def java(main: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> list[str | Path]:
    """What runs a class of the broker's jars, or the client's."""
    jvm = ("-Xmx400m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-D{_LOGGER}.defaultLogLevel=error")
    return [_tool("java"), *jvm, *options, "-cp", f"{classes()}:{jars()}/*", main, *arguments]


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[Broker]:
    """One that does not run yet, with its data in the folder."""
    with PortReservation(2) as reserved:
        port, controller = reserved.ports
        settings = folder / "server.properties"
        settings.write_text(_SETTINGS.format(port=port, controller=controller, folder=folder))
        form = java("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", settings)
        subprocess.run(form, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        options = {"log.kafka.request.logger": "debug", "logFile": f"{folder}/requests"}
        logs = tuple(f"-D{_LOGGER}.{name}={value}" for name, value in options.items())
        yield Broker(port, folder, java("kafka.Kafka", settings, options=logs))


@contextlib.contextmanager
def kafka(folder: Path) -> Iterator[Broker]:
    """One that nobody traces."""
    with prepared(folder) as broker, subprocess.Popen(broker.command, stdout=subprocess.DEVNULL) as server:
        try:
            databases.until(lambda: databases.is_listening(broker.port), "Kafka answers")
            yield broker
        finally:
            server.send_signal(signal.SIGKILL)


def _tool(name: str) -> str:
    found = shutil.which(name)
    require("kernel", found is not None, f"no {name} (tools/apt test)")
    assert found is not None
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kernelspan" / "javas"
