# SPDX-License-Identifier: Apache-2.0
"""The reference page of the command line, written from it: `python -m kernelspan_agent.cli.reference [FILE]`.

docs/reference/cli.md is this module's output; a test compares them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kernelspan_agent.cli import COMMANDS, PROGRAM, cli
from kernelspan_agent.cli.lazy import Lazy

_HEAD = """<!-- Written by `python -m kernelspan_agent.cli.reference`. Edit the commands in agent/kernelspan_agent/cli instead. -->

# Command line

| Exit code | Means |
| --- | --- |
| 0 | fine; `run -- COMMAND` gives the command's own status, 128 and the number for a signal |
| 1 | a fault of kernelspan's, or nobody reads its output any more |
| 2 | bad usage, a profile that is wrong: every problem is named; or what is asked for is not there |
| 3 | this machine cannot do it: what is missing, and how to get it; or the API server cannot be reached |
| 130 | interrupted before anything was traced |

Errors go to standard error: `kernelspan: REASON: message`, then what to do about it. REASON is one of a profile's
[status reasons](traceprofile.md#status-reasons) where one fits.
"""

_KEYS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("run", "Keys of `--report`:"): (
        ("profile", "the profile's name"),
        ("operations", "seen, exported, filtered, sampledOut, rateLimited, inFlight, dropped (by reason), unaccounted"),
        ("probes[]", "the profile's own: name, mode, state (`Attached` `Pending` `Failed`), mechanism, reason, message, hint, durations[]"),
        ("probes[].durations[]", "fromNs, belowNs, count: of mode Span, before sampling"),
        ("libraries", "operations (counted in all, before sampling: exported, sampledOut, and lost on their way out), noLibrary, otherLibraries, libraries[]"),
        ("libraries.noLibrary, libraries.otherLibraries", "the same of code that is no library's or has no frames, and of what came after the first 512 libraries"),
        ("libraries.libraries[]", "name, version, purl, operations, byKind, failures, failuresByKind, inStack, destinations[], folders[]; those that did most first"),
        ("libraries.libraries[].operations, libraries.libraries[].byKind", "operations at which it stands nearest to the kernel: it did them; network kinds begin with `socket.`, own probes are `own`"),
        ("libraries.libraries[].failures, libraries.libraries[].failuresByKind", "those of them that failed"),
        ("libraries.libraries[].inStack", "operations in whose stack it stands anywhere, whoever did them"),
        ("libraries.libraries[].destinations[]", "destination, operations: at most 64; where there are more they lose their port, then their address"),
        ("libraries.libraries[].folders[]", "folder of the files, operations: at most 64; where there are more, the deepest become the one above"),
        ("spans", "exported, dropped (by reason)"),
        ("requests", "seen, ambiguous (their thread had several at once), evicted (too many were open), unreadable (messages of DNS and MongoDB), untold (of HTTP/2, whose headers refer to what was not seen), kept (traces, by `sampling.keepErrors` or `keepSlowerThanMilliseconds`), bytesLost (calls whose bytes were lost: what they asked or answered is not told, or without its end)"),
        ("stacks", "operations by the state of their stack"),
        ("frames", "frames of new stacks: resolved, or why not"),
        ("runtimes", "processes by runtime and version"),
        ("kernel", "what the programs counted"),
        ("skipped", "runs that the kernel left out to prevent recursion"),
        ("mechanism", "how programs were attached"),
        ("attached", "number of attachments"),
        ("seconds", "open: the whole start; compile: of it the compiler"),
        ("cost", "agentCpuSeconds, agentMillicores, programsMillicores, sampledSeconds, limitMillicores: CPU of the agent and of its programs"),
        ("guard", "phase (`Free` `Throttled` `Detached`), millicores, limitMillicores, exceeded (times), kept: by part the share that was not thrown away"),
        ("lastError", "of the outputs; empty: none"),
    ),
    ("check", "Keys of `--json`:"): (
        ("ok", "whether `run` can work"),
        ("kernel", "release, machine"),
        ("checks[]", "name, state (`ok` `no` `unknown` `untried`), required, detail, reason, hint"),
        ("programs[]", "module, mechanism, state, programs, verifiedInstructions (null: the kernel does not say), detail, reason, hint"),
        ("notVisible[]", "what, why"),
        ("profile", "null without -f; path, name, problems[] (path, value, message, line), ignored[], plan, probes[]"),
        ("profile.plan", "null for a bad profile; mechanism, groups[] (group, operations, systemCalls), absentSystemCalls (null: not known)"),
        ("profile.probes[]", "name, kind, state (`Attached` `Pending` `Failed` `Untried`), mechanism, programs, verifiedInstructions, places, reason, message, hint"),
        ("profile.probes[].others[]", "of a function of the kernel, mechanism and why: those that were not taken"),
    ),
    ("libraries", "Keys of `--json`:"): (
        ("processes[]", "pid, executable, runtime (null: none that can be read), unsupported (null, or why not), modules: how many files of code it has loaded (null: not known)"),
        ("notExamined", "processes beyond the first 64: traced, but not looked at"),
        ("seconds", "how long they were traced"),
        ("accounting", "as `operations` of `run --report`; null: nothing was traced"),
        ("operations", "counted in all"),
        ("noLibrary, otherLibraries", "the same of code that is no library's or has no frames, and of what came after the first 512 libraries"),
        ("libraries[]", "name, version, purl, loaded (`mapped` `module` `stack`; empty: it acted, and is gone), operations, byKind, failures, failuresByKind, inStack, destinations[], folders[]; those that did most first"),
        ("libraries[].operations, libraries[].byKind", "operations at which it stands nearest to the kernel: it did them; network kinds begin with `socket.`, own probes are `own`"),
        ("libraries[].failures, libraries[].failuresByKind", "those of them that failed"),
        ("libraries[].inStack", "operations in whose stack it stands anywhere, whoever did them"),
        ("libraries[].destinations[]", "destination, operations: at most 64; where there are more they lose their port, then their address"),
        ("libraries[].folders[]", "folder of the files, operations: at most 64; where there are more, the deepest become the one above"),
        ("sites[]", "directory, distributions: how many are installed there"),
    ),
    ("explain", "Keys of `--json` with `--pid`:"): (
        ("pid, namespacePid", "as seen here, and in its own PID namespace"),
        ("executable, executableDeleted, workingDirectory", "as the process names them"),
        ("runtime", "null: none that can be read; name, version, file, address, layout (offsets in bytes)"),
        ("unsupported", "null, or a runtime that cannot be read: name, version, reason, message"),
        ("libraries[]", "name, version, purl, seen (`stack`, `mapped`)"),
        ("sites[]", "directory, distributions: how many are installed there"),
        ("threads[]", "tid (null: not known which), name, schedulerState, ofRuntime, state, frames[], innermost first"),
        ("threads[].state", "`Complete`; `Running`: only outer frames; `Truncated`; `Unreadable`, or why a frame has no name"),
        ("threads[].frames[]", "function, file, line (null: not known), origin, library (name, version)"),
    ),
    ("explain", "Keys of `--json` with `--pod`; null is not known:"): (
        ("pod", "namespace, name, uid, node (empty: none yet), phase, ended, deleting, workload (null: none; kind, name)"),
        ("traced", "whether a profile traces it: true, false, null"),
        ("containers[]", "name, started, profiles[]: those that select it, by kind and name"),
        ("profiles[]", "kind, namespace, name, generation, statusGeneration (null: no status)"),
        ("profiles[].selected, profiles[].traced", "true, false, null"),
        ("profiles[].message", "why it is not traced, or not known; empty: all is well, or `objections` say it"),
        ("profiles[].objections[]", "part: the field that does not select the pod, or the condition; certain (false: not known); message"),
        ("profiles[].containers, profiles[].processSelector", "what of the pod is selected"),
        ("profiles[].node", "null, or the status of the pod's node as the [status](traceprofile.md) has it"),
        ("profiles[].conditions[]", "type, status, reason, message"),
        ("notRead[]", "what, why"),
        ("advice[]", "lines: what to do, with the profile to apply where none selects the pod"),
    ),
    ("list functions", "Keys of `--json`, of each of `functions[]`; null is not known:"): (
        ("name, module", "module: null for the kernel itself"),
        ("count", "functions that have this name: static ones may share it"),
        ("clones[]", "names of copies and parts that the compiler has made of it"),
        ("traceable", "whether fentry and kprobe.multi can be used"),
        ("blacklisted", "whether the kernel refuses kprobes on it"),
        ("parameters[]", "name, and type, kind, size (bytes), signed, pointsTo (null: no pointer); null: not described"),
        ("variadic, returns", "returns: null for void, else as a parameter's type"),
    ),
    ("list tracepoints", "Keys of `--json`, of each of `tracepoints[]`:"): (
        ("category, name", "as a profile names it"),
        ("fields[]", "name, type, kind, offset and size (bytes), signed, elements (0: no array, or of no fixed number), place"),
        ("fields[].place", "`record`; `__data_loc`, `__rel_loc`: four bytes there say where the value is, and its length"),
        ("rawArguments[]", "name, and type, kind, size, signed, pointsTo; null: there is no raw tracepoint, or it is not described"),
    ),
    ("list symbols", "Keys of `--json`:"): (
        ("files[]", "path, matched: how many functions match, go (null: no Go program; version, abi), functions[]"),
        ("files[].functions[]", "name, demangled (null: not mangled), offset (in the file), size (null: not known), source"),
    ),
    ("list usdt", "Keys of `--json`:"): (
        ("files[]", "path, matched: how many probes match, probes[] (provider, name, sites[])"),
        ("files[].probes[].sites[]", "offset, semaphoreOffset (null: none), arguments[], each in the file"),
        ("files[].probes[].sites[].arguments[]", "text, size, signed, place (`register` `memory` `constant` `unknown`), problem"),
    ),
}  # fmt: skip

_METRICS = """## /metrics, /healthz, /readyz

`run --listen host:port` serves them (`:9464`: on every address; port 0: any that is free, told on standard error).
`/healthz` answers 200 while the agent's loop takes steps, `/readyz` 200 while operations are seen; both else 503 with
the reason. `/metrics` is in Prometheus' text format: every metric begins with `kernelspan_` and describes itself; those
that begin with `process_` are about the agent's own process.

## Logs

On standard error, plain on a terminal, else JSON, one object a line: `time`, `level`, `logger`, `event`, and the event's
own keys. What a traced program passed to its calls is never logged.
"""


def page() -> str:
    """The page, as Markdown."""
    parent = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    lines = [_HEAD, f"## {PROGRAM}", "", _help(cli), "", *_options(cli, parent), ""]
    lines += [
        "| Command | Does |",
        "| --- | --- |",
        *(f"| [{name}](#{PROGRAM}-{name}) | {text} |" for name, text in COMMANDS.items()),
    ]
    for name in COMMANDS:
        lines += ["", *_section(name, cli, parent)]
    return "\n".join([*lines, "", _METRICS])


def _section(name: str, group: click.Group, parent: click.Context) -> Iterator[str]:
    command = group.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"## {context.command_path}", "", f"`{usage}`", "", _help(command))
    if options := list(_options(command, context)):
        yield from ("", *options)
    for (of, heading), keys in _KEYS.items():
        if f"{PROGRAM} {of}" != context.command_path:
            continue
        yield from ("", heading, "", "| Key | Is |", "| --- | --- |")
        yield from (f"| {', '.join(f'`{each}`' for each in key.split(', '))} | {text} |" for key, text in keys)
    if isinstance(command, Lazy):
        yield from ("", "| Command | Does |", "| --- | --- |")
        for inner, text in command.table.items():
            yield f"| [{inner}](#{context.command_path.replace(' ', '-')}-{inner}) | {text} |"
        for inner in command.table:
            yield from ("", *_section(inner, command, context))


def _help(command: click.Command) -> str:
    """Its help; what click must not wrap becomes a block."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(
        "```\n" + paragraph[1:].strip("\n") + "\n```" if paragraph.startswith("\b") else paragraph
        for paragraph in paragraphs
    )


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    cells = [(names, " ".join(text.split())) for names, text in filter(None, rows) if text]
    if cells:
        yield from ("| Option | Does |", "| --- | --- |")
        yield from (f"| `{names.replace('|', chr(92) + '|')}` | {text} |" for names, text in cells)


def main(arguments: list[str]) -> None:
    """Write the page to the file that is named, or to standard output."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main(sys.argv[1:])
