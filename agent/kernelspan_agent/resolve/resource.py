# SPDX-License-Identifier: Apache-2.0
"""Resource attributes of a process, by the semantic conventions; what cannot be read is left out."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import PurePosixPath

from kernelspan_agent.model import AttributeValue, Resource
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.runtimes.registry import DetectedRuntime
from kernelspan_api import semconv

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_LANGUAGES = {"python": "python"}
_VERSION = metadata.version("kernelspan")
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """What every resource of an agent has or hides."""

    attributes: Mapping[str, AttributeValue] = field(
        default_factory=dict
    )  # the profile's, and OTEL_RESOURCE_ATTRIBUTES
    service_name: str = ""  # OTEL_SERVICE_NAME
    command_line: str = "Drop"  # Keep, Hash or Drop


def service_name_of(executable: str, arguments: tuple[str, ...], runtime: DetectedRuntime | None) -> str:
    """A name for a program nobody has named: the script or module an interpreter runs, else the executable."""
    name = PurePosixPath(executable).name
    if runtime is None:
        return name
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "-m":
            return next(rest, name)
        if argument == "-c":
            return name
        if argument in ("-W", "-X"):
            next(rest, None)
        elif not argument.startswith("-"):
            return PurePosixPath(argument).name.removesuffix(".py") or name
    return name


def container_id_of(process: procfs.Process) -> str:
    """The container's id as its cgroup path names it (cri-containerd-, docker-, crio-); empty: none."""
    try:
        entries = procfs.read_cgroups(process)
    except ProcessError:
        return ""
    for entry in entries:
        found = _CONTAINER_ID.findall(entry.path)
        if found:
            return str(found[-1])
    return ""


def resource_of(
    process: procfs.Process | None, tgid: int, name: str, runtime: DetectedRuntime | None, settings: ResourceSettings
) -> Resource:
    """The resource of one process as it is now. `process` None: it has ended, `name` is all that is known."""
    found: dict[str, AttributeValue] = {
        semconv.SERVICE_NAME: settings.service_name or name,
        semconv.PROCESS_PID: tgid,
        semconv.PROCESS_EXECUTABLE_NAME: name,
        semconv.HOST_NAME: socket.gethostname(),
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
    if process is not None:
        with contextlib.suppress(ProcessError):  # it may end meanwhile: what was found stands
            found.update(_of_process(process, runtime, settings))
    found.update(settings.attributes)
    if settings.service_name:
        found[semconv.SERVICE_NAME] = settings.service_name
    return Resource(found)


def _of_process(
    process: procfs.Process, runtime: DetectedRuntime | None, settings: ResourceSettings
) -> dict[str, AttributeValue]:
    executable, _ = procfs.read_executable(process)
    arguments = procfs.read_cmdline(process)
    status = procfs.read_status(process)
    found: dict[str, AttributeValue] = {
        semconv.SERVICE_NAME: procfs.printable(service_name_of(executable, arguments, runtime)),
        semconv.SERVICE_INSTANCE_ID: str(
            uuid.uuid5(uuid.NAMESPACE_OID, f"{socket.gethostname()} {process.pid} {process.start_ticks}")
        ),
        semconv.PROCESS_EXECUTABLE_PATH: procfs.printable(executable),
        semconv.PROCESS_EXECUTABLE_NAME: procfs.printable(PurePosixPath(executable).name),
    }
    if status.namespace_pids[-1] != process.pid:
        found[semconv.PROCESS_VPID] = status.namespace_pids[-1]
    if container := container_id_of(process):
        found[semconv.CONTAINER_ID] = container
    line = procfs.printable(" ".join(arguments))
    if settings.command_line == "Keep":
        found[semconv.PROCESS_COMMAND_LINE] = line
    elif settings.command_line == "Hash":
        found[semconv.PROCESS_COMMAND_LINE] = hashlib.blake2b(line.encode(), digest_size=_HASH_BYTES).hexdigest()
    return found
