# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain --pid`: what is known of a running process, and the stacks read from it now."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.errors import MachineError, UsageError

if TYPE_CHECKING:
    from kernelspan_agent.cli.living import LiveFrame, LiveThread, Living

CANNOT = 3
_KEY_WIDTH, _NAME_WIDTH, _MAX_NAME_WIDTH = 11, 20, 60


def explain(pid: int, *, as_json: bool) -> int:
    """Prints it; the exit code. Raises UsageError for a process that is not there, MachineError where it may not be read."""
    found = examine(pid)
    shown = as_object(found)
    click.echo(json.dumps(shown, indent=1) if as_json else "\n".join(page(shown, Painter.of_stdout(os.environ))))
    return CANNOT if shown["unsupported"] else 0


def examine(pid: int, **wanted: Any) -> Living:
    """What is known of a process; `wanted`: as living.examine has it. Raises UsageError: it has ended; MachineError: it may not be read."""
    from kernelspan_agent.cli import living
    from kernelspan_agent.guard import capabilities
    from kernelspan_agent.process.errors import ProcessEndedError, ProcessError
    from kernelspan_agent.targets.select import by_pid

    process = by_pid(pid)
    try:
        return living.examine(process, **wanted)
    except ProcessEndedError as error:
        if Path(f"{process.path}/task").exists():  # its links may not be read, though it lives
            raise _forbidden(pid, capabilities.how_to_grant(["CAP_SYS_PTRACE"])) from error
        raise UsageError(f"--pid {pid}: the process has ended", hint="see ps -e") from error
    except ProcessError as error:
        if error.reason == "PermissionDenied":
            raise _forbidden(pid, capabilities.how_to_grant(["CAP_SYS_PTRACE"])) from error
        raise MachineError(f"--pid {pid}: {error}", reason=error.reason, hint=error.hint) from error


def _forbidden(pid: int, hint: str) -> MachineError:
    return MachineError(
        f"--pid {pid}: this process may not be read: missing CAP_SYS_PTRACE", reason="PermissionDenied", hint=hint
    )


def as_object(found: Living) -> dict[str, Any]:
    """What was found out, as --json shows it."""
    from kernelspan_agent.process.procfs import printable
    from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported

    detection = found.detection
    runtime = unsupported = None
    if isinstance(detection, DetectedRuntime):
        row = detection.layout[0]
        runtime = {
            "name": detection.implementation,
            "version": detection.version,
            "file": printable(detection.file),
            "address": f"{detection.address:#x}",
            "layout": {name: int(row[name]) for name in detection.layout.dtype.names or () if name != "reserved"},
        }
    elif isinstance(detection, Unsupported):
        unsupported = {
            "name": detection.implementation,
            "version": detection.version,
            "reason": detection.reason,
            "message": detection.message,
        }
    return {
        "pid": found.process.pid,
        "namespacePid": found.namespace_pid,
        "executable": printable(found.executable),
        "executableDeleted": found.executable_deleted,
        "workingDirectory": printable(found.working_directory),
        "runtime": runtime,
        "unsupported": unsupported,
        "libraries": [
            {"name": library.name, "version": library.version, "purl": library.purl, "seen": sorted(places)}
            for library, places in sorted(found.libraries.items(), key=lambda item: item[0].name)
        ],
        "sites": [{"directory": printable(path), "distributions": count} for path, count in found.sites.items()],
        "threads": [_thread(thread) for thread in found.threads],
    }


def _thread(thread: LiveThread) -> dict[str, Any]:
    return {
        "tid": thread.tid or None,
        "name": thread.name,
        "schedulerState": thread.scheduler_state,
        "ofRuntime": thread.in_runtime,
        "state": thread.state,
        "frames": [_frame(frame) for frame in thread.frames],
    }


def _frame(live: LiveFrame) -> dict[str, Any]:
    from kernelspan_agent.process.procfs import printable

    library = {"name": live.library.name, "version": live.library.version} if live.library else None
    return {
        "function": live.frame.function,
        "file": printable(live.frame.file),
        "line": live.frame.line or None,
        "origin": live.origin.value,
        "library": library,
    }


def page(shown: dict[str, Any], paint: Painter) -> list[str]:
    """The same for people."""
    inside = f", {shown['namespacePid']} in its own PID namespace" if shown["namespacePid"] != shown["pid"] else ""
    deleted = " (deleted)" if shown["executableDeleted"] else ""
    lines = [_line("process", f"{shown['pid']}{inside}"), _line("executable", shown["executable"] + deleted)]
    lines += _runtime_lines(shown, paint)
    if shown["runtime"]:
        used = [
            f"{each['name']} {each['version']}".rstrip() + f" ({', '.join(each['seen'])})"
            for each in shown["libraries"]
        ]
        lines.append(_line("libraries", ", ".join(used) or "none in a stack or mapped"))
        lines += [
            _line("site", f"{each['directory']}: {each['distributions']} distributions") for each in shown["sites"]
        ]
    lines.append(_line("threads", str(len(shown["threads"]))))
    for thread in shown["threads"]:
        lines += ["", *_thread_lines(thread, paint, with_stacks=_is_walked(shown["runtime"]))]
    return lines


def _line(key: str, text: str) -> str:
    return f"{key:<{_KEY_WIDTH}} {text}"


def _runtime_lines(shown: dict[str, Any], paint: Painter) -> list[str]:
    import textwrap

    if unsupported := shown["unsupported"]:
        name = f"{unsupported['name']} {unsupported['version']}".strip()
        return [
            _line(
                "runtime", f"{name}{': ' if name else ''}{paint.bad(unsupported['reason'])}: {unsupported['message']}"
            )
        ]
    runtime = shown["runtime"]
    if runtime is None:
        return [_line("runtime", "none that kernelspan knows: its operations are traced without frames")]
    layout = " ".join(f"{name}={value}" for name, value in runtime["layout"].items())
    wrapped = textwrap.wrap(layout, 100, initial_indent=_line("layout", ""), subsequent_indent=" " * (_KEY_WIDTH + 1))
    where = f"at {runtime['address']} of {runtime['file']}" if _is_walked(runtime) else f"in {runtime['file']}"
    return [_line("runtime", f"{runtime['name']} {runtime['version']}".rstrip() + f", {where}"), *wrapped]


def _is_walked(runtime: dict[str, Any] | None) -> bool:
    """Whether stacks can be read from outside: they begin at an address then."""
    return runtime is not None and int(runtime["address"], 16) != 0


def _thread_lines(thread: dict[str, Any], paint: Painter, *, with_stacks: bool) -> list[str]:
    tid = f"thread {thread['tid']} " if thread["tid"] else "thread " if thread["name"].startswith("pthread") else ""
    state = f" ({thread['schedulerState']})" if thread["schedulerState"] else ""
    head = f"{tid}{thread['name'] or 'thread'}{state}"
    if not with_stacks:
        return [head]
    if not thread["ofRuntime"]:
        return [f"{head}: not one of the runtime's"]
    if thread["state"] != "Complete":
        head += f" {paint.bad(thread['state'])}"
    if not thread["frames"]:
        return [f"{head}: no frames"]
    width = min(_MAX_NAME_WIDTH, max(len(frame["function"]) for frame in thread["frames"]))
    return [head, *(_frame_line(frame, width, paint) for frame in thread["frames"])]


def _frame_line(frame: dict[str, Any], width: int, paint: Painter) -> str:
    library = frame["library"]
    whose = f"{library['name']} {library['version']}".rstrip() if library else frame["origin"].lower()
    text = f"  {frame['function']:<{width}} {frame['file']}:{frame['line'] or '?'} [{whose}]"
    return text if frame["origin"] == "App" else paint.faint(text)
