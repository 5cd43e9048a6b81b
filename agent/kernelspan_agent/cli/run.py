# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run`: trace a command, a process, or all that match, until told to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.files import check_writable, write_text
from kernelspan_agent.cli.profiles import read_profile
from kernelspan_agent.cli.ring import ring_option
from kernelspan_agent.errors import UsageError
from kernelspan_agent.guard import capabilities
from kernelspan_agent.probes import children
from kernelspan_agent.ring.size import with_ring
from kernelspan_agent.selftrace import span

if TYPE_CHECKING:
    from kernelspan_agent.app import App
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.targets.command import Command
    from kernelspan_agent.targets.select import Selection
    from kernelspan_api.profile import TraceProfile

EXPORT_TIMEOUT_SECONDS = 10.0
SCAN_SECONDS = 1.0


@click.command("run")
@click.option("-f", "--file", "profile_path", required=True, metavar="PROFILE", help="The TraceProfile, a YAML file.")
@click.option(
    "-p", "--pid", "pids", type=int, multiple=True, help="Trace this process and its children. May be repeated."
)
@click.option("--duration", type=click.FloatRange(min=0.001), metavar="SECONDS", help="Stop after so long.")
@click.option(
    "--console/--no-console", default=None, help="Traces as trees on standard output; default without another output."
)
@click.option("--output", "output_path", metavar="FILE", help="OTLP/JSON, one request a line; - is standard output.")
@click.option(
    "--otlp", "endpoint", metavar="ENDPOINT", help="host:port or http(s)://…; else OTEL_EXPORTER_OTLP_* say where."
)
@click.option("--report", "report_path", metavar="FILE", help="Write the accounting as JSON.")
@click.option("--listen", metavar="ADDRESS", help="Serve /metrics, /healthz and /readyz at host:port.")
@ring_option
@click.option(
    "--self-traces",
    is_flag=True,
    envvar="KERNELSPAN_SELF_TRACES",
    show_envvar=True,
    help="Also send the agent's own traces (compile, load, attach, export) to the OTLP endpoint.",
)
@click.option(
    "--histogram/--no-histogram",
    default=None,
    help="With the table, how long the calls of own probes took; default on a terminal.",
)
@click.option("-q", "--quiet", is_flag=True, help="No table at the end.")
@click.argument("command_line", nargs=-1, metavar="[-- COMMAND [ARGUMENT]...]", type=click.UNPROCESSED)
def command(profile_path: str, command_line: tuple[str, ...], **options: Any) -> int:
    """Trace a command (after --), a process (--pid), or every process that the profile's processSelector matches.

    A command is traced from its first system call, gets the signals sent to kernelspan, and gives its exit status.
    Ctrl-C ends cleanly.

    \b
    kernelspan run -f examples/01-python-files.yaml -- python3 app.py
    kernelspan run -f profile.yaml --pid 4242 --otlp localhost:4317
    """
    return start(read(profile_path), command_line, options)


def read(profile_path: str) -> TraceProfile:
    """The profile, if it is to be traced. Raises UsageError."""
    profile, ignored = read_profile(profile_path)
    if profile.spec.paused:
        raise UsageError(f"{profile_path} is paused: nothing to trace", hint="set spec.paused to false")
    for field in ignored:
        click.echo(f"kernelspan: {field} is for Kubernetes and is ignored here", err=True)
    return profile


def start(profile: TraceProfile, command_line: tuple[str, ...], options: dict[str, Any]) -> int:
    """Traces what the options of `command` say; gives the exit status. `only_output`, if it is there, is all spans go to; then
    no table is shown, but what was left out is said.
    """
    _check_targets(profile, command_line, options["pids"])
    if options["report_path"]:
        check_writable("--report", options["report_path"])
    capabilities.require()
    options["told"] = set()  # probes that were said to have failed
    child = _fork(command_line)  # before any thread is started
    return _run(profile, child, options)


def _check_targets(profile: TraceProfile, command_line: tuple[str, ...], pids: tuple[int, ...]) -> None:
    if command_line and pids:
        raise UsageError("give a command or --pid, not both")
    selector = profile.spec.process_selector
    if not command_line and not pids and not selector.executables and not selector.runtimes:
        raise UsageError(
            "nothing to trace: no command, no --pid, and the profile's processSelector names nothing",
            hint="kernelspan run -f PROFILE -- COMMAND",
        )


def _fork(command_line: tuple[str, ...]) -> Command | None:
    if not command_line:
        return None
    from kernelspan_agent.targets.command import Command

    return Command(command_line)


def _run(profile: TraceProfile, child: Command | None, options: dict[str, Any]) -> int:
    with ExitStack() as stack:
        stack.callback(children.dismiss)
        children.expect(os.environ)
        from kernelspan_agent.app import App
        from kernelspan_agent.cli.outputs import open_exporter, resource_settings, trace_self, watch_health
        from kernelspan_agent.resolve.touched import Touched

        if options["self_traces"]:
            stop = trace_self(options, os.environ)
            stack.callback(lambda: stop(EXPORT_TIMEOUT_SECONDS))
        if child is not None:
            stack.callback(child.abandon)
        exporter = open_exporter(profile, options, os.environ)
        stack.callback(lambda: exporter.close(0.0))
        with span("agent.open", profile=profile.metadata.name):
            app = App(
                profile,
                exporter,
                with_ring(os.environ, options.get("ring_mebibytes")),
                resource=resource_settings(profile, os.environ),
                watch_exec=child is None and not options["pids"],
                executable=os.path.realpath(child.program) if child is not None else "",
                programs=_programs(child, options["pids"]),
            )
        children.dismiss()  # 80 MB resident each
        stack.callback(app.close)
        app.only.touched = Touched()
        _say_probes(app, options, has_command=child is not None)
        if options["listen"]:
            stack.callback(watch_health(options["listen"], app))
        status = _trace(app, profile, child, options)
        _say(app, options)
        return status


def _say_probes(app: App, options: dict[str, Any], *, has_command: bool) -> None:
    """Which own probes could not be attached. Raises MachineError where nothing could."""
    if not app.only.wanted.probes:
        return
    from kernelspan_agent.cli import ownprobes
    from kernelspan_agent.resolve.durations import Durations

    for line in ownprobes.failed(app, options["told"]):
        click.echo(line, err=True)
    ownprobes.require_any(app, has_command=has_command)
    if options["histogram"] is None:
        options["histogram"] = sys.stderr.isatty()
    if options["histogram"] or options["report_path"]:
        app.only.durations = Durations()


def _programs(child: Command | None, pids: tuple[int, ...]) -> list[str]:
    """What is to be traced, as far as it can be told before."""
    from kernelspan_agent.targets.command import programs_of

    return programs_of(child.program, child.arguments) if child is not None else [f"/proc/{pid}/exe" for pid in pids]


def _trace(app: App, profile: TraceProfile, child: Command | None, options: dict[str, Any]) -> int:
    seconds = [limit for limit in (options["duration"], profile.spec.ttl_seconds) if limit]
    until = time.monotonic() + min(seconds) if seconds else float("inf")
    stopped = stop_on_signals() if child is None else list[int]()
    status = 0
    if child is not None:
        app.select(child.pid, Path(child.arguments[0]).name, held=True)
        child.forward_signals()
        child.release()
        app.run(lambda: child.poll() is not None or time.monotonic() >= until)
        status = child.poll() or 0
    else:
        scan = _scanner(app, profile, options["pids"])
        app.run(lambda: bool(stopped) or time.monotonic() >= until or scan())
    app.end(EXPORT_TIMEOUT_SECONDS)
    return status


def stop_on_signals() -> list[int]:
    """A list that is empty until SIGINT or SIGTERM comes."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _frame: stopped.append(got))
    return stopped


def _scanner(app: App, profile: TraceProfile, pids: tuple[int, ...]) -> Callable[[], bool]:
    """Finds the processes to trace, now and as they come; says when all that were named have ended."""
    from kernelspan_agent.targets import select

    if pids:
        named = [select.by_pid(pid) for pid in pids]
        for process in named + select.descendants(pids):
            app.select(process.pid, select.name_of(process))
        return lambda: not app.processes.alive()
    selector = profile.spec.process_selector
    scan = _matching(app, select.Selection(selector.executables, [runtime.value for runtime in selector.runtimes]))
    if not app.processes.alive():
        click.echo("kernelspan: no process matches processSelector yet; waiting for one", err=True)
    return scan


def _matching(app: App, selection: Selection) -> Callable[[], bool]:
    """Traces what is selected: now, when a program starts, and each second what has changed otherwise."""
    from kernelspan_agent.targets import select

    def consider(process: Process | None) -> None:
        if process is None or process.pid == os.getpid() or app.processes.latest(process.pid) is not None:
            return
        if selection.wants(process):
            app.select(process.pid, select.name_of(process))

    last = [0.0]

    def scan() -> bool:
        now = time.monotonic()
        if now - last[0] >= SCAN_SECONDS:
            last[0] = now
            for process in select.all_processes():
                consider(process)
        return False

    app.on_exec = lambda pid, _when_ns: consider(select.process_or_none(pid))
    scan()
    return scan


def _say(app: App, options: dict[str, Any]) -> None:
    from kernelspan_agent.cli import ownprobes
    from kernelspan_agent.cli.outputs import left_out_of, report, table

    found, told = report(app), not options["quiet"]
    try:
        if options["report_path"]:
            write_text("--report", options["report_path"], json.dumps(found, indent=1) + "\n")
    except UsageError:
        told = True  # else nobody would ever know
        raise
    finally:
        if options.get("only_output") is not None and (left_out := left_out_of(found)):
            click.echo(left_out, err=True)
        if told:
            sys.stdout.flush()
            click.echo(table(found), err=True)
            if options["histogram"] and (drawn := ownprobes.histograms(found["probes"])):
                click.echo(drawn, err=True)
        for line in ownprobes.failed(app, options["told"]) + ownprobes.never_came(app) + ownprobes.left_out(app):
            click.echo(line, err=True)
