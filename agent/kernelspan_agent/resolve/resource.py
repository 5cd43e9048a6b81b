# SPDX-License-Identifier: Apache-2.0
"""Resource attributes of a process, by the semantic conventions; what cannot be read is left out."""

from __future__ import annotations

import hashlib
import platform
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import PurePosixPath

from kernelspan_agent.model import AttributeValue, Resource
from kernelspan_agent.process import procfs
from kernelspan_agent.resolve.glance import Glance
from kernelspan_agent.resolve.traced import TracedProcess
from kernelspan_agent.runtimes.registry import Detection, runs_scripts
from kernelspan_api import semconv

_LANGUAGES = {"python": "python"}
_JAVA_PATHS = ("-cp", "-classpath", "--class-path", "--module-path")
_VERSION = metadata.version("kernelspan")
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """What every resource of an agent has or hides."""

    attributes: Mapping[str, AttributeValue] = field(
        default_factory=dict
    )  # the profile's, and OTEL_RESOURCE_ATTRIBUTES
    service_name: str = ""  # OTEL_SERVICE_NAME
    host_name: str = field(default_factory=socket.gethostname)
    command_line: str = "Drop"  # Keep, Hash or Drop


def service_name_of(executable: str, arguments: tuple[str, ...], runtime: Detection) -> str:
    """A name for a program nobody has named: the script or module an interpreter runs, else the executable."""
    name = PurePosixPath(executable).name
    if not runs_scripts(runtime):
        return name
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "-m":
            return next(rest, name)
        if argument == "-c":
            return name
        if argument in ("-W", "-X", *_JAVA_PATHS):
            next(rest, None)
        elif not argument.startswith("-"):
            return PurePosixPath(argument).name.removesuffix(".py") or name
    return name


def resource_of(traced: TracedProcess, settings: ResourceSettings) -> Resource:
    """The resource of one process as it is known now. One that had ended before it was looked at has a name, no more."""
    runtime = _shown_runtime(traced)
    found: dict[str, AttributeValue] = {
        semconv.SERVICE_NAME: traced.name,
        semconv.PROCESS_PID: traced.tgid,
        semconv.PROCESS_EXECUTABLE_NAME: traced.name,
        semconv.HOST_NAME: settings.host_name,
        semconv.HOST_ARCH: {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        semconv.OS_TYPE: "linux",
        semconv.TELEMETRY_SDK_NAME: "kernelspan",
        semconv.TELEMETRY_SDK_VERSION: _VERSION,
        semconv.TELEMETRY_DISTRO_NAME: "kernelspan",
        semconv.TELEMETRY_DISTRO_VERSION: _VERSION,
    }
    if runtime is not None:
        found.update(runtime.attributes)
        found[semconv.TELEMETRY_SDK_LANGUAGE] = _LANGUAGES.get(runtime.runtime, runtime.runtime)
    if traced.seen is not None:
        found.update(_of_process(traced.seen, runtime, settings))
    found.update(traced.surroundings)
    found.update(settings.attributes)
    if settings.service_name:
        found[semconv.SERVICE_NAME] = settings.service_name
    return Resource(found)


def _shown_runtime(traced: TracedProcess) -> Detection:
    """The runtime of a process, also one that cannot be walked; not one that is only looked for yet."""
    if traced.runtime is not None:
        return traced.runtime
    found = traced.unsupported
    return found if found is not None and not found.waits else None


def _of_process(seen: Glance, runtime: Detection, settings: ResourceSettings) -> dict[str, AttributeValue]:
    process = seen.process
    found: dict[str, AttributeValue] = {}
    if seen.executable:
        found[semconv.SERVICE_NAME] = procfs.printable(service_name_of(seen.executable, seen.arguments, runtime))
        found[semconv.PROCESS_EXECUTABLE_PATH] = procfs.printable(seen.executable)
        found[semconv.PROCESS_EXECUTABLE_NAME] = procfs.printable(PurePosixPath(seen.executable).name)
    if process.start_ticks:
        instance = f"{settings.host_name} {process.pid} {process.start_ticks}"
        found[semconv.SERVICE_INSTANCE_ID] = str(uuid.uuid5(uuid.NAMESPACE_OID, instance))
    if seen.namespace_pid not in {0, process.pid}:
        found[semconv.PROCESS_VPID] = seen.namespace_pid
    if seen.container_id:
        found[semconv.CONTAINER_ID] = seen.container_id
    line = procfs.printable(" ".join(seen.arguments))
    if not line:
        return found
    if settings.command_line == "Keep":
        found[semconv.PROCESS_COMMAND_LINE] = line
    elif settings.command_line == "Hash":
        found[semconv.PROCESS_COMMAND_LINE] = hashlib.blake2b(line.encode(), digest_size=_HASH_BYTES).hexdigest()
    return found
