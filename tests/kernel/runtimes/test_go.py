# SPDX-License-Identifier: Apache-2.0
"""What spans say of Go code is what the program itself said: function, file and line, of every frame, and whose it is.

Methods, closures, generics, inlined calls, deferred functions, panics, reflection, stacks that are moved; goroutines that
change threads all the time; C in both directions; programs stripped, position-independent, static, vendored, not optimised.
Nothing may be wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from kernelspan_agent.process.errors import ElfError, ProcessEndedError
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.go import symbolise
from kernelspan_agent.runtimes.go.build import GoBuild, inspect_file
from kernelspan_agent.runtimes.go.symbolise import GoFile
from kernelspan_agent.runtimes.go.table import FunctionTable
from tests.support import go_runs, gos, truth
from tests.support.go_runs import Outcome
from tests.support.otlp_json import ReceivedSpan
from tests.support.together import contexts
from tests.support.truth import judge

pytestmark = pytest.mark.root
# Of each program, what it is linked with and what is left of it.
MODES = {
    "plain": (),
    "stripped, position-independent": ("-buildmode=pie", "-ldflags=-s -w"),
    "vendored, trimmed": ("-mod=vendor", "-trimpath", "-ldflags=-s -w"),
    "not optimised": ("-gcflags=-N -l",),
}
OLD_MODES = ("plain", "stripped, position-independent")
# Where a goroutine begins, and where the scheduler has left one behind or a thread of its own begins.
ENDS = {"runtime.goexit", "runtime.mcall", "runtime.morestack", "runtime.mstart", "runtime.mstart0", "runtime.rt0_go"}
C_MODES = {
    "plain": (),
    "stripped, position-independent": ("-buildmode=pie", "-ldflags=-s -w"),
    "static, stripped": ("-ldflags=-s -w -linkmode=external -extldflags=-static",),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the targets are built."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """What they are built in; their libraries are vendored besides."""
    found = gos.sources(folder)
    gos.needed(gos.OWN).run("mod", "tidy", folder=folder / "truth", environment=found)
    gos.needed(gos.OWN).run("mod", "vendor", folder=folder / "truth", environment=found)
    return found


def assert_all_right(outcome: Outcome, at_least: int, truncated: int) -> None:
    """Nothing is wrong, nothing missing, no context is mixed with another, and enough was said for that to mean something."""
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said >= at_least, verdict
    assert verdict.right == verdict.said, verdict
    assert verdict.truncated == truncated, verdict
    assert outcome.accounting["unaccounted"] == 0
    assert not outcome.accounting["dropped"]
    mixed, traces, nowhere = contexts(outcome.said, outcome.spans)
    assert not mixed
    assert set(traces.values()) == {1}, traces
    assert not nowhere


@pytest.mark.parametrize("label", gos.wanted())
def test_every_frame_is_true(label: str, folder: Path, environment: dict[str, str]) -> None:
    """Thousands of operations of several programs at once, goroutines one after another and side by side."""
    go = gos.needed(label)
    modes = MODES if label == gos.OWN else {mode: MODES[mode] for mode in OLD_MODES}
    programs = [gos.build(go, folder, "truth", environment, *flags) for flags in modes.values()]
    for outcome in go_runs.traced(programs, "8", "12"):
        assert_all_right(outcome, 3000, truncated=1)
        assert len(outcome.inside) == 2, outcome.inside
        assert {names[-1] for names in outcome.inside} == {"syscall.Read", "os.(*File).Read"}
        assert all(_is_stub(names[0]) for names in outcome.inside)


def _is_stub(function: str) -> bool:
    return function.rpartition(".")[2] in {"Syscall6", "Syscall"}


@pytest.mark.parametrize("label", gos.wanted())
def test_c_that_go_calls_and_go_that_c_calls(label: str, folder: Path, environment: dict[str, str]) -> None:
    """Also in turns, also in threads that C has begun, also where a callback has moved the stack under C."""
    go = gos.needed(label)
    modes = C_MODES if label == gos.OWN else {mode: C_MODES[mode] for mode in OLD_MODES}
    with_c = {**environment, "CGO_ENABLED": "1"}
    programs = [gos.build(go, folder, "callback", with_c, *flags) for flags in modes.values()]
    for outcome in go_runs.traced(programs, "4", "12"):
        assert_all_right(outcome, 700, truncated=0)


def test_whose_code_it_is(folder: Path, environment: dict[str, str]) -> None:
    """A library's name and version are those that the go command lists, also of modules that others stand in for."""
    go = gos.needed(gos.OWN)
    program = gos.build(go, folder, "truth", environment)
    (outcome,) = go_runs.traced([program], "1", "2")
    spans = [span for found in outcome.spans.values() for span in found]
    libraries = {
        (
            _innermost(span),
            span.attributes.get("kernelspan.library.name"),
            span.attributes.get("kernelspan.library.version"),
        )
        for span in spans
        if _innermost(span).startswith("example.com/")
    }
    assert libraries == {
        ("example.com/lib.Read", "example.com/lib", "v1.2.3"),
        ("example.com/lib/inner.Read", "example.com/lib", "v1.2.3"),
        ("example.com/forked.Read", "example.com/fork", "v1.1.0-beta.1"),
        ("example.com/local%2ev2.Read", "example.com/local.v2", None),
    }
    purls = {str(span.attributes.get("kernelspan.library.purl")) for span in spans}
    assert "pkg:golang/example.com/fork@v1.1.0-beta.1" in purls
    assert {
        span.attributes.get("kernelspan.library.name") for span in spans if _innermost(span).startswith("main.")
    } == {None}
    assert {span.attributes["kernelspan.code.origin"] for span in spans} == {"Runtime"}  # the stub of the system call
    version = go.run("env", "GOVERSION", folder=folder).strip()
    assert {span.resource["process.runtime.name"] for span in spans} == {"gc"}
    assert {span.resource["process.runtime.version"] for span in spans} == {version}
    assert {span.resource["telemetry.sdk.language"] for span in spans} == {"go"}
    assert {span.resource["service.name"] for span in spans} == {program.name}


def _innermost(span: ReceivedSpan) -> str:
    return str(span.attributes["code.stacktrace"]).partition(" ")[0]


def test_programs_that_are_gone_at_once(folder: Path, environment: dict[str, str]) -> None:
    """Of two programs that live for some milliseconds, each time one after the other, none is taken for the other."""
    go = gos.needed(gos.OWN)
    short = folder / "short"
    short.mkdir()
    script = ['"$1" wait & "$2" wait; wait', "i=0", 'while [ $i -lt 40 ]; do "$1" $i; "$2" $i; i=$((i+1)); done']
    programs = []
    for name in ("one", "another"):
        (short / f"{name}.go").write_text(SHORT.replace("NAME", name) + "\n" * 3)
        programs.append(str(short / name))
        go.run("build", "-o", programs[-1], f"{short}/{name}.go", folder=short, environment=environment)
    (short / "run.sh").write_text("\n".join(script))
    profile = truth.PROFILE.replace(
        '["/nothing"]', '["/nothing"], runtimes: [Go]'
    )  # its walker is there from the start
    ran = truth.run_command(["sh", str(short / "run.sh"), *programs], short / "none", profile=profile)
    assert ran.status == 0, ran.errors
    found = dict.fromkeys(("one", "another"), 0)
    for span in ran.spans:
        path = str(span.attributes.get("file.path", ""))
        stack = str(span.attributes.get("code.stacktrace", ""))
        if not path.startswith("/kernelspan-truth/") or not stack:
            continue
        name = path.split("/")[2]
        assert f"main.{name}" in stack, (path, stack)
        assert f"/{name}.go:12)" in stack
        found[name] += 1
    assert min(found.values()) >= 30, (found, ran.report)


def test_a_program_is_known_before_it_begins(folder: Path, environment: dict[str, str]) -> None:
    """One that `kernelspan run` is given has frames from its first call, even where nobody can ever look at it."""
    made = folder / "first"
    made.mkdir()
    (made / "first.go").write_text(SHORT.replace("NAME", "first"))
    program = str(made / "first")
    gos.needed(gos.OWN).run("build", "-o", program, f"{made}/first.go", folder=made, environment=environment)
    gone = mock.patch.object(registry, "detect", side_effect=ProcessEndedError("it has ended"))
    shell = ["sh", "-c", f"read line; exec {program} 0"]
    with (
        gone,
        subprocess.Popen(shell, stdin=subprocess.PIPE) as running,
        truth.open_app(made / "spans.jsonl", programs=[program]) as app,
    ):
        app.select(running.pid, "first")
        assert running.stdin is not None
        running.stdin.write(b"\n")
        running.stdin.close()
        truth.run_until(app, lambda: running.poll() is not None)
        app.end(10.0)
    found = [
        span
        for span in truth.read_spans(made / "spans.jsonl")
        if span.attributes.get("file.path") == "/kernelspan-truth/first/0"
    ]
    assert len(found) == 1
    assert "main.first (" in str(found[0].attributes["code.stacktrace"])


SHORT = """package main

import (
	"os"
	"time"
)

func main() { NAME(os.Args[1]) }

//go:noinline
func NAME(number string) {
	os.Stat("/kernelspan-truth/NAME/" + number)
	if number == "wait" {
		time.Sleep(time.Second) // to be looked at
	}
}
"""


def test_processes_waits_and_connections(folder: Path, environment: dict[str, str]) -> None:
    """Stubs of system calls that do without a frame, or without a stack: no stack is lost, each ends where it began."""
    made = folder / "asks"
    made.mkdir()
    (made / "asks.go").write_text(ASKS)
    gos.needed(gos.OWN).run("build", "-o", str(made / "asks"), f"{made}/asks.go", folder=made, environment=environment)
    wanted = "processes: {}\n  waits: {operations: [Lock, Sleep, Poll]}\n  network: {}"
    profile = truth.PROFILE.replace("files: {operations: [Read, Stat]}", wanted)
    ran = truth.run_command([str(made / "asks")], made / "none", profile=profile)
    assert ran.status == 0, ran.errors
    stacks: dict[str, list[list[str]]] = {}
    for span in ran.spans:
        missing = str(span.attributes.get("kernelspan.code.missing", ""))
        assert missing in {"", "RuntimePending", "NoThreadState"}, span
        if (text := span.attributes.get("code.stacktrace")) is not None:
            names = [line.partition(" (")[0] for line in str(text).split("\n")]
            stacks.setdefault(span.name, []).append(names)
            assert names[-1] in ENDS, names
    main = ["main.main", "runtime.main", "runtime.goexit"]
    forks = [names for names in stacks["process.fork"] if names[1] == "syscall.forkAndExecInChild1"]
    assert len(forks) == 5
    assert {names[0] for names in forks} == {"syscall.rawVforkSyscall"}
    assert all(names[-4:] == ["main.runs", *main] for names in forks)
    execs = [names for names in stacks["process.exec"] if names[-4:] == ["main.runs", *main]]
    assert len(execs) == 5
    assert len([names for names in stacks["tcp.connect"] if names[-4:] == ["main.ask", *main]]) == 5
    assert len([names for names in stacks["tcp.send"] if names[-2:] == ["main.serve.func1", "runtime.goexit"]]) == 5
    assert any(names[0] == "runtime.futex" and names[-1] == "runtime.mcall" for names in stacks["wait.lock"])


ASKS = """package main

import (
	"net"
	"os/exec"
	"time"
)

//go:noinline
func runs() { exec.Command("/bin/true").Run() }

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			b := make([]byte, 10)
			n, _ := c.Read(b)
			time.Sleep(time.Millisecond)
			c.Write(b[:n])
			c.Close()
		}()
	}
}

//go:noinline
func ask(a string) {
	c, _ := net.Dial("tcp", a)
	c.Write([]byte("hello"))
	c.Read(make([]byte, 10))
	c.Close()
}

func main() {
	time.Sleep(time.Second) // to be looked at
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go serve(l)
	for i := 0; i < 5; i++ {
		runs()
		ask(l.Addr().String())
	}
}
"""


def test_a_deleted_program_in_a_root_of_its_own(folder: Path, environment: dict[str, str]) -> None:
    """Its file is reached by the process alone: in a container, and removed."""
    program = gos.build(gos.needed(gos.OWN), folder, "truth", {**environment, "CGO_ENABLED": "0"})
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "tmp").mkdir()
        shutil.copy(program, root / "app")
        started = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--mount", "chroot", made, "/app", "/tmp/said", "2", "2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with started:
            assert started.stdin is not None
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            (root / "app").unlink()
            pid = int(Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text())
            with truth.open_app(root / "spans.jsonl") as app:
                app.select(pid, "target")
                go_runs.wait_for_walker(app)
                started.stdin.write("\n")
                started.stdin.flush()
                truth.run_until(app, lambda: started.poll() is not None)
                app.end(10.0)
                accounting = app.accounting().as_json()
        spans = truth.by_key(truth.read_spans(root / "spans.jsonl"))
        outcome = go_runs.outcome(truth.read_said(root / "tmp" / "said"), spans, accounting)
    assert_all_right(outcome, 150, truncated=1)


def test_explain_shows_goroutines(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Those that wait, by their numbers, with what Go's own dump of them has."""
    program = gos.build(gos.needed(gos.OWN), folder, "truth", environment)
    with go_runs.started(program, tmp_path / "said", "1", "1") as running:
        command = [sys.executable, "-c", truth.CLI, "explain", "--pid", str(running.pid), "--json"]
        shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        assert shown["runtime"]["name"] == "gc"
        (main,) = [each for each in shown["threads"] if each["name"].startswith("goroutine 1 ")]
        names = [frame["function"] for frame in main["frames"]]
        assert names[0] == "syscall.Syscall"
        assert names[-4:] == ["main.begin", "main.main", "runtime.main", "runtime.goexit"]
        assert main["state"] == "Complete"
        waiting = [each for each in shown["threads"] if "(waiting)" in each["name"]]
        assert {each["frames"][0]["function"] for each in waiting} == {"runtime.gopark"}


@pytest.mark.parametrize("label", gos.wanted())
def test_a_table_with_any_byte_changed(label: str, folder: Path, environment: dict[str, str]) -> None:
    """Whatever a file says, it is answered or refused: nothing hangs, nothing else is raised."""
    program = gos.build(gos.needed(label), folder, "truth", environment)
    data = bytearray(program.read_bytes())
    with program.open("rb") as file:
        build = inspect_file(file.fileno())
    assert isinstance(build, GoBuild)
    dice, refused, answered = random.Random(7), 0, 0
    damaged = folder / "damaged"
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(dice.choice([1, 40, 4000])):
            changed[dice.randrange(build.table.start, build.table.end)] = dice.randrange(256)
        damaged.write_bytes(changed)
        with damaged.open("rb") as file:
            try:
                found = inspect_file(file.fileno())
            except ElfError:
                refused += 1
                continue
            if not isinstance(found, GoBuild):
                refused += 1
                continue
            table = FunctionTable(found.table_of(file.fileno()), found.offsets, found.function_data)
            for _ in range(100):
                try:
                    table.place(found.table.text + dice.randrange(-10, 900_000))
                    answered += 1
                except ElfError:
                    refused += 1
    assert answered > 100
    assert refused > 100


def test_symbols_take_no_memory_without_bound(folder: Path, environment: dict[str, str]) -> None:
    """What is kept of a program is bounded, and what was let go is read again, the same."""
    program = gos.build(gos.needed(gos.OWN), folder, "truth", environment)
    with program.open("rb") as file:
        build = inspect_file(file.fileno())
        assert isinstance(build, GoBuild)
        opened = GoFile(file.fileno(), build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbolise, "MAX_PLACES", 8)
        symbolise._places.clear()
        start = build.table.text - build.code
        first = [opened.shown(start + at, is_return=True) for at in range(0, 40_000, 400)]
        assert [opened.shown(start + at, is_return=True) for at in range(0, 40_000, 400)] == first
        assert len(symbolise._places) == 8
