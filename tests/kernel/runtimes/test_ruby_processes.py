# SPDX-License-Identifier: Apache-2.0
"""Which processes run Ruby, of which version, and what of that can be walked."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported
from kernelspan_agent.runtimes.ruby.detect import inspect
from kernelspan_api import semconv
from tests.support import rubies, ruby_runs, truth
from tests.support.pythons import Interpreter
from tests.support.require import require
from tests.support.ruby_runs import judge, needed
from tests.support.runs import KERNELSPAN

pytestmark = pytest.mark.root
SLEEPS = "$stdout.syswrite('r'); sleep 60"


def library_of(ruby: Interpreter) -> Path:
    """Its libruby."""
    assert ruby.root is not None
    version = ruby.label.rpartition("-")[2]
    found = [each for each in ruby.root.glob(f"usr/lib/*/libruby-{version}.so.*") if not each.is_symlink()]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("label", rubies.labels())
def test_detected_by_what_the_file_says(label: str) -> None:
    """The command line, by version; under another name, and deleted."""
    ruby = needed(label)
    assert ruby.root is not None
    renamed = ruby.root / "tmp" / "worker"
    shutil.copy(ruby.root / ruby.program.lstrip("/"), renamed)
    other = replace(ruby, program="/tmp/worker")
    with ruby.script(SLEEPS, "sleeps.rb") as script:
        for started in (ruby, other):
            with started.running("--disable-gems", script) as running:
                assert running.started.stdout is not None
                assert running.started.stdout.read(1)
                if started is other:
                    renamed.unlink()
                found = registry.detect(open_process(running.pid))
                assert isinstance(found, DetectedRuntime), found
                assert found.attributes["process.runtime.name"] == "CRuby"
                assert found.version.startswith(label.rpartition("-")[2])
                assert found.file.rpartition("/")[2].startswith("libruby-")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b"\x003.1.2\x00", b"\x003.9.2\x00"), "RuntimeLayoutUnknown"),  # a version of which nothing is known
        ((b"\x003.1.2\x00", b"\x001.8.2\x00"), "RuntimeUnsupported"),
        ((b"\x003.1.2\x00", b"\x003.1-2\x00"), "RuntimeLayoutUnknown"),
        ((struct.pack("<3I", 3, 1, 0), struct.pack("<3I", 3, 2, 0)), "RuntimeLayoutUnknown"),  # it contradicts itself
    ],
)
def test_another_version_is_not_walked(change: tuple[bytes, bytes], reason: str, tmp_path: Path) -> None:
    """A library that says it is another, or whose code is not as it should be, is told by name and never walked."""
    library = library_of(needed("bookworm-3.1"))
    data = library.read_bytes()
    assert data.count(change[0]) >= 1
    changed = tmp_path / library.name
    changed.write_bytes(data.replace(*change))
    with changed.open("rb") as file:
        found = inspect(file.fileno(), library.name)
    assert isinstance(found, Unsupported), found
    assert (found.reason, found.implementation) == (reason, "Ruby")


def test_a_library_that_is_not_known_is_traced_without_frames(tmp_path: Path) -> None:
    """In a process: operations are there, frames are not, and nothing is guessed."""
    ruby = needed("bookworm-3.1")
    assert ruby.root is not None
    with tempfile.TemporaryDirectory(dir=ruby.root / "tmp") as made:
        own = library_of(ruby)
        changed = Path(made) / "libruby-3.1.so.3.1"
        changed.write_bytes(own.read_bytes().replace(b"\x003.1.2\x00", b"\x003.9.2\x00"))
        inside = f"/{Path(made).relative_to(ruby.root)}"
        other = replace(ruby, program="/lib64/ld-linux-x86-64.so.2")
        script = Path(made) / "odd.rb"
        script.write_text("$stdout.syswrite('r'); $stdin.sysread(1); File.exist?('/nowhere')")
        command = ("--library-path", inside, ruby.program, "--disable-gems", f"{inside}/odd.rb")
        with other.running(*command) as running, truth.open_app(tmp_path / "spans.jsonl") as app:
            assert running.started.stdout is not None
            assert running.started.stdout.read(1) == b"r"
            found = registry.detect(open_process(running.pid))
            assert isinstance(found, Unsupported)
            assert found.reason == "RuntimeLayoutUnknown"
            app.select(running.pid, "odd")
            running.go_on()
            truth.run_until(app, lambda: running.started.poll() is not None)
            app.end(10.0)
    spans = [span for span in truth.read_spans(tmp_path / "spans.jsonl") if "file.path" in span.attributes]
    assert spans
    assert all("code.stacktrace" not in span.attributes for span in spans)


def test_a_command_is_walked_from_its_first_line(tmp_path: Path) -> None:
    """`kernelspan run -- ruby SCRIPT`: its walker is there before it begins, though Ruby is in a library."""
    ruby = needed("bookworm-3.1")  # of the suite that this machine's libraries are of
    assert ruby.root is not None
    root = ruby.root
    program, machine = str(root / ruby.program.lstrip("/")), "x86_64-linux-gnu"
    environ = {
        "LD_LIBRARY_PATH": str(root / "usr/lib" / machine),
        "RUBYLIB": f"{root}/usr/lib/ruby/3.1.0:{root}/usr/lib/{machine}/ruby/3.1.0",
    }
    runs_here = subprocess.run([program, "-e", "1"], env=environ, capture_output=True, check=False).returncode == 0
    require("kernel", runs_here, f"{program} does not run outside of its root")
    for file in ruby_runs.TARGETS.glob("*.rb"):
        shutil.copy(file, tmp_path)
    command = [program, "-W0", "--disable-gems", str(tmp_path / "kinds.rb"), str(tmp_path / "said"), "1"]
    ran = truth.run_command(command, tmp_path / "none", environ=environ)
    assert ran.status == 0, ran.errors
    said, _ = ruby_runs.read_said(tmp_path / "said")
    verdict = judge(said, truth.by_key(ran.spans))
    assert verdict.said > 300
    assert not verdict.wrong, str(verdict)
    assert verdict.right + verdict.missing[truth.PENDING] == verdict.said, str(verdict)
    assert verdict.right, str(verdict)  # what is pending is from before it was looked at


def test_a_program_that_embeds_ruby(tmp_path: Path) -> None:
    """A libruby in some other program: the thread that runs it has Ruby's frames, another thread has none."""
    ruby = needed("bookworm-3.1")
    with ruby_runs.folder_in(ruby) as (folder, inside):
        source = ruby_runs.TARGETS / "embed.c"
        subprocess.run(["gcc", "-w", str(source), "-o", str(folder / "host"), "-ldl", "-lpthread"], check=True)
        host = replace(ruby, program=f"{inside}/host")
        assert ruby.root is not None
        library = f"/{library_of(ruby).relative_to(ruby.root)}"
        with host.running(library, "-W0", f"{inside}/kinds.rb", f"{inside}/said", "1") as program:
            assert program.line() == "ready"
            with truth.open_app(tmp_path / "spans.jsonl") as app:
                traced = app.select(program.pid, "host")
                ruby_runs.wait_for_walker(app)
                program.go_on()
                truth.run_until(app, lambda: program.started.poll() is not None)
                app.end(10.0)
        assert traced.runtime is not None
        assert traced.runtime.file.endswith(library)
        spans = truth.read_spans(tmp_path / "spans.jsonl")
        verdict = judge(ruby_runs.read_said(folder / "said")[0], truth.by_key(spans))
    assert verdict.said > 300
    assert verdict.right == verdict.said, str(verdict)
    others = [span for span in spans if span.attributes.get("file.path") == "/kernelspan-thread"]
    assert len(others) > 10
    assert not any("code.stacktrace" in span.attributes for span in others)


def test_noise_in_place_of_its_structures(tmp_path: Path) -> None:
    """Whatever a program puts there, every operation is seen and accounted for, and the agent goes on."""
    ruby = needed("bookworm-3.1")
    assert ruby.root is not None
    library = f"/{library_of(ruby).relative_to(ruby.root)}"
    with ruby_runs.folder_in(ruby) as (folder, inside):
        source = ruby_runs.TARGETS / "hostile.c"
        subprocess.run(["gcc", "-O1", "-w", str(source), "-o", str(folder / "hostile"), "-ldl"], check=True)
        hostile = replace(ruby, program=f"{inside}/hostile")
        # Its library is never begun with, so that no class has a name: of a version that looks for these, that is waited for.
        with (
            mock.patch("kernelspan_agent.runtimes.ruby.detect._classpath_id", return_value=9),
            hostile.running(library, "20000") as program,
            truth.open_app(tmp_path / "spans.jsonl") as app,
        ):
            assert program.line() == "ready"
            traced = app.select(program.pid, "hostile")
            ruby_runs.wait_for_walker(app)
            assert traced.runtime is not None
            program.go_on()
            truth.run_until(app, lambda: program.started.poll() is not None)
            app.end(10.0)
            frames, accounting = dict(app.tables.stacks.frames), app.accounting().as_json()
    assert program.started.returncode == 0
    assert accounting["seen"] >= 20_000
    assert (accounting["unaccounted"], accounting["dropped"]) == (0, {})
    spans = [
        each for each in truth.read_spans(tmp_path / "spans.jsonl") if "kernelspan-hostile" in str(each.attributes)
    ]
    states = Counter(str(each.attributes.get(semconv.CODE_MISSING, "none")) for each in spans)
    assert len(states) > 1, (states, frames)


def _explained_while_it_waits(pid: int) -> Any:
    """As soon as the main thread is in its read: 2.7 asks first whether there is something to read."""
    deadline = time.monotonic() + 30.0
    while True:
        done = subprocess.run(
            [str(KERNELSPAN), "explain", "--pid", str(pid), "--json"], capture_output=True, text=True, check=True
        )
        if "IO#sysread" in done.stdout and "Kernel#sleep" in done.stdout:
            return json.loads(done.stdout)
        assert time.monotonic() < deadline, done.stdout


@pytest.mark.parametrize("label", rubies.labels())
def test_explain_shows_the_stacks(label: str) -> None:
    """From outside, while it waits: the same frames as Ruby's own, of each thread, gems with their versions."""
    ruby = needed(label)
    version = label.rpartition("-")[2]
    with ruby_runs.folder_in(ruby) as (folder, inside):
        home = folder / "vendor" / "bundle" / "ruby" / f"{version}.0"
        gem = home / "gems" / "reader-2.1.0" / "lib"
        gem.mkdir(parents=True)
        (gem / "reader.rb").write_text(
            "class Reader\n  def self.wait\n    [1].each { yield $stdin.sysread(1) }\n  end\nend\n"
        )
        (home / "specifications").mkdir()
        (home / "specifications" / "reader-2.1.0.gemspec").write_text(
            "# -*- encoding: utf-8 -*-\n# stub: reader 2.1.0 ruby lib\n\nGem::Specification.new do |s|\nend\n"
        )
        (folder / "app.rb").write_text(
            "require_relative 'vendor/bundle/ruby/" + version + ".0/gems/reader-2.1.0/lib/reader'\n"
            "class Shop\n  def run(n)\n    return run(n - 1) if n > 0\n    Reader.wait { |x| x }\n  end\nend\n"
            "Thread.new { sleep 100 }\nThread.pass\n$stdout.syswrite('r')\nShop.new.run(1)\n"
        )
        with ruby.running("-W0", f"{inside}/app.rb") as program:
            assert program.started.stdout is not None
            assert program.started.stdout.read(1) == b"r"
            shown = _explained_while_it_waits(program.pid)
    assert (shown["runtime"]["name"], shown["runtime"]["version"].startswith(version)) == ("CRuby", True)
    stacks = [
        [
            (frame["function"], frame["file"].rpartition("/")[2].partition(".so")[0], frame["line"])
            for frame in each["frames"]
        ]
        for each in shown["threads"]
        if each.get("frames")
    ]
    each = ("Array#each", f"libruby-{version}", None)
    assert [
        ("IO#sysread", f"libruby-{version}", None),
        ("block in Reader.wait", "reader.rb", 3),
        each,
        ("Reader.wait", "reader.rb", 3),
        ("Shop#run", "app.rb", 5),
        ("Shop#run", "app.rb", 4),
        ("<main>", "app.rb", 11),
    ] in stacks
    assert [("Kernel#sleep", f"libruby-{version}", None), ("block in <main>", "app.rb", 8)] in stacks
    assert "pkg:gem/reader@2.1.0" in json.dumps(shown)
