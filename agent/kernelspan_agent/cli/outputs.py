# SPDX-License-Identifier: Apache-2.0
"""Where `run` sends spans, and what it says at the end."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kernelspan_agent.cli import behaviour, ownprobes
from kernelspan_agent.errors import MachineError, UsageError
from kernelspan_agent.resolve.resource import ResourceSettings

if TYPE_CHECKING:
    from kernelspan_agent.app import App
    from kernelspan_agent.export.base import Exporter
    from kernelspan_api.handling import ExportTLS
    from kernelspan_api.profile import TraceProfile


def open_exporter(profile: TraceProfile, options: Mapping[str, Any], environ: Mapping[str, str]) -> Exporter:
    """The outputs that were asked for, as one; the console where none was. Raises UsageError.

    Where spans go over OTLP: --otlp, else the profile's export.otlp, else the environment.
    """
    from kernelspan_agent.export.environment import names_endpoint
    from kernelspan_agent.export.pipeline import Pipeline
    from kernelspan_agent.export.queue import limits_from

    limits = limits_from(environ)
    if options.get("only_output") is not None:
        return Pipeline([options["only_output"]], limits)
    outputs: list[Any] = []
    endpoint, environ, tls = _destination(profile, options["endpoint"] or "", environ)
    if endpoint or names_endpoint(environ):
        from kernelspan_agent.export.otlp import open_output
        from kernelspan_agent.export.settings import settings_from

        outputs.append(open_output(settings_from(environ, endpoint, tls), limits))
    if options["output_path"]:
        from kernelspan_agent.export.jsonfile import JsonFileExporter

        outputs.append(JsonFileExporter(options["output_path"]))
    wants_console = options["console"] if options["console"] is not None else not outputs
    if wants_console:
        from kernelspan_agent.export.console import ConsoleExporter, terminal_width, wants_color

        color, width = wants_color(sys.stdout, environ), terminal_width(sys.stdout, environ)
        outputs.append(ConsoleExporter(sys.stdout, color=color, width=width))
    return Pipeline(outputs, limits)


def _destination(
    profile: TraceProfile, endpoint: str, environ: Mapping[str, str]
) -> tuple[str, Mapping[str, str], ExportTLS | None]:
    """The endpoint, and the environment with what the profile says of how to send to it; and what it says of TLS."""
    otlp = profile.spec.export.otlp if profile.spec.export else None
    if endpoint or otlp is None or not otlp.endpoint:
        return endpoint, environ, None
    protocol = "grpc" if otlp.protocol.value == "GRPC" else "http/protobuf"
    compression = otlp.compression.value.lower()
    said = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": compression}
    return otlp.endpoint, {**environ, **said}, otlp.tls


def trace_self(options: Mapping[str, Any], environ: Mapping[str, str]) -> Callable[[float], None]:
    """Makes the agent's own traces; gives what sends the rest and ends it. Raises UsageError."""
    from kernelspan_agent.export.environment import names_endpoint
    from kernelspan_agent.export.settings import settings_from

    endpoint = options["endpoint"] or ""
    if not endpoint and not names_endpoint(environ):
        raise UsageError(
            "--self-traces (KERNELSPAN_SELF_TRACES): there is no OTLP endpoint to send them to",
            hint="give --otlp ENDPOINT",
        )
    try:
        from kernelspan_agent.control import telemetry
    except ImportError as error:
        raise MachineError(f"--self-traces: {error}", hint="pip install 'kernelspan[telemetry]'") from error
    return telemetry.start(settings_from(environ, endpoint))


def resource_settings(profile: TraceProfile, environ: Mapping[str, str], host_name: str = "") -> ResourceSettings:
    """Resource attributes of the profile and of OTEL_RESOURCE_ATTRIBUTES (which win); the service's name, the machine's."""
    attributes: dict[str, Any] = dict(profile.spec.resource_attributes)
    for pair in filter(None, environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")):
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"OTEL_RESOURCE_ATTRIBUTES: {pair!r} is not key=value")
        attributes[key.strip()] = unquote(value.strip())  # as the specification of the variable has it
    name = environ.get("OTEL_SERVICE_NAME") or str(attributes.get("service.name", ""))
    hidden = profile.spec.redaction.command_line.value
    return ResourceSettings(attributes, name, host_name or socket.gethostname(), hidden)


def watch_health(address: str, app: App) -> Callable[[], None]:
    """Serves /metrics, /healthz and /readyz; gives what stops it. Raises UsageError."""
    from kernelspan_agent.control.health import serve

    return serve(address, app, lambda text: print(f"kernelspan: {text}", file=sys.stderr, flush=True))


def report(app: App) -> dict[str, Any]:
    """The accounting of a run, as --report writes it."""
    snapshot = app.exporter.counters.snapshot()
    programs = app.session.programs()
    return {
        "profile": app.profile.metadata.name,
        "operations": app.accounting().as_json(),
        "probes": ownprobes.report(app),
        "libraries": behaviour.report(app),
        "spans": {
            "exported": snapshot.spans_exported,
            "dropped": {k: v for k, v in snapshot.spans_dropped.items() if v},
        },
        "requests": _requests(app),
        "stacks": dict(app.only.resolver.frame_states),
        "frames": dict(app.tables.stacks.frames),
        "runtimes": dict(app.processes.runtimes),
        "kernel": {counter.name.lower(): count for counter, count in app.session.counts(1).items() if count},
        "skipped": sum(program["skipped"] for program in programs.values()),
        "mechanism": app.session.mechanism.name,
        "attached": len(app.session.attached),
        "seconds": {
            "open": round(app.timings.open_seconds, 3),
            "compile": round(app.timings.compile_seconds, 3),
        },
        "cost": _cost(app),
        "guard": _guard(app),
        "lastError": snapshot.last_error,
    }


def _requests(app: App) -> dict[str, int]:
    counters = app.only.tracer.counters
    return {
        "seen": counters.requests,
        "ambiguous": counters.requests_ambiguous,
        "evicted": counters.requests_evicted,
        "unreadable": counters.requests_unreadable,
        "kept": counters.traces_kept,
        "untold": counters.requests_untold,
        "bytesLost": app.session.bytes_lost() + app.tables.payloads.dropped,
    }


def _cost(app: App) -> dict[str, Any]:
    cost = app.guard.cost.cost(time.monotonic())
    return {
        "agentCpuSeconds": cost.agent_cpu_seconds,
        "agentMillicores": cost.agent_millicores,
        "programsMillicores": cost.programs_millicores,
        "sampledSeconds": cost.sampled_seconds,
        "limitMillicores": app.profile.spec.limits.cpu_millicores,
    }


def _guard(app: App) -> dict[str, Any]:
    told = app.guard.told(app.only.uid)
    if told is None:
        return {}
    cut = {part: round(share, 6) for part, share in told.shares.items() if share < 1.0}
    return {
        "phase": told.phase.value,
        "millicores": round(told.used),
        "limitMillicores": round(told.limit),
        "exceeded": told.exceeded,
        "kept": cut,
    }


def table(found: Mapping[str, Any]) -> str:
    """The accounting for people."""
    operations = found["operations"]
    lines = ["", "operations"]
    for key, label in (
        ("seen", "seen"),
        ("exported", "exported"),
        ("filtered", "filtered"),
        ("sampledOut", "sampled out"),
        ("rateLimited", "rate limited"),
        ("inFlight", "in flight"),
    ):
        lines.append(f"  {label:<14}{operations[key]:>12,}")
    dropped = operations["dropped"]
    lines.append(f"  {'dropped':<14}{sum(dropped.values()):>12,}" + (f"   {_parts(dropped)}" if dropped else ""))
    if operations["unaccounted"]:
        lines.append(f"  {'unaccounted':<14}{operations['unaccounted']:>12,}")
    if found["stacks"]:
        lines.append(f"stacks          {_parts(found['stacks'])}")
    if found["runtimes"]:
        lines.append(f"runtimes        {_parts(found['runtimes'])}")
    lines.append(
        f"spans           {found['spans']['exported']:,}"
        + (f"   dropped {_parts(found['spans']['dropped'])}" if found["spans"]["dropped"] else "")
    )
    if found["requests"]["seen"]:
        others = {name: count for name, count in found["requests"].items() if name != "seen" and count}
        lines.append(f"requests        {found['requests']['seen']:,}" + (f"   {_parts(others)}" if others else ""))
    lines.append(_cost_line(found["cost"]))
    if found["guard"].get("exceeded"):
        lines.append(_guard_line(found["guard"]))
    seconds = found["seconds"]
    lines.append(f"started in      {seconds['open']:.2f} s, of it compiling {seconds['compile']:.2f} s")
    if libraries := behaviour.table(found["libraries"]):
        lines.append(libraries)
    if found["lastError"]:
        lines.append(f"last error      {found['lastError']}")
    return "\n".join(lines)


def left_out_of(found: Mapping[str, Any]) -> str:
    """A line on the operations that should have been looked at and were not; "" where there are none."""
    operations = found["operations"]
    parts = {
        "rate limited": operations["rateLimited"],
        **operations["dropped"],
        "lost bytes of": found["requests"]["bytesLost"],
    }
    parts = {reason: count for reason, count in parts.items() if count and reason != "Orphan"}
    if not parts:
        return ""
    return f"kernelspan: some operations were left out, so requests may lack parts ({_parts(parts)}): raise the profile's limits"


def _cost_line(cost: Mapping[str, Any]) -> str:
    programs = cost["programsMillicores"]
    kernel = "not measured" if programs is None else f"{programs:,} millicores (sampled {cost['sampledSeconds']:.1f} s)"
    agent = f"{cost['agentCpuSeconds']:.2f} s of CPU, {cost['agentMillicores']:,} millicores"
    return f"time spent      agent {agent}; programs in the kernel {kernel}"


def _guard_line(guard: Mapping[str, Any]) -> str:
    line = f"limit           {guard['exceeded']} times beyond cpuMillicores {guard['limitMillicores']:,}, "
    kept = ", ".join(f"{part} {share:.2%}" for part, share in guard["kept"].items())
    at_end = {"Free": "at the end within it", "Detached": "detached"}.get(guard["phase"])
    return line + (at_end or (f"at the end kept: {kept}" if kept else "at the end near it"))


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
