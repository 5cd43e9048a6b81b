# SPDX-License-Identifier: Apache-2.0
"""Which processes run PHP, of which version, and what of that can be walked."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.php import layout
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported
from tests.support import php_runs, phps, truth
from tests.support.php_runs import needed, wanted_phps
from tests.support.require import require
from tests.support.runs import KERNELSPAN
from tests.support.truth import judge

pytestmark = pytest.mark.root
VERSION = wanted_phps()[1].rpartition("-")[2]
TURNS = 60  # at most, of a program that becomes PHP, until its walker is seen to be there


@pytest.mark.parametrize("version", phps.VERSIONS)
def test_layouts_are_those_of_the_headers(version: str, tmp_path: Path) -> None:
    """Every number that a version's headers can tell."""
    try:
        include = phps.headers(version)
    except phps.PhpsError as error:
        require("kernel", False, str(error))
        raise
    folders = [f"-I{include / each}" for each in ("", "main", "Zend", "TSRM")]
    program = tmp_path / "offsets"
    subprocess.run(["gcc", "-w", *folders, str(php_runs.TARGETS / "offsets.c"), "-o", str(program)], check=True)
    said = {name: int(value) for name, value in (line.split() for line in _output(program))}
    offsets = layout.BY_VERSION[tuple(map(int, version.split(".")))]  # type: ignore[index]
    for name, value in said.items():
        if hasattr(layout, name):
            assert getattr(layout, name) == value, name
        elif hasattr(offsets, name):
            assert getattr(offsets, name) == value, name
    rest = {name: value for name, value in said.items() if not hasattr(layout, name) and not hasattr(offsets, name)}
    fixed = {"opline": 0, "func": 24, "this": 32, "this_type": 40, "previous": 48, "line_start": 8, "line_end": 12}
    assert rest == fixed
    assert ("frameless" in said) == (offsets.frameless != layout.ABSENT)


def _output(program: Path) -> list[str]:
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("label", wanted_phps())
@pytest.mark.parametrize("program", ["/usr/bin/php", "/usr/bin/php-cgi"])
def test_detected_by_what_the_file_says(label: str, program: str) -> None:
    """Command line and CGI, by version; under another name, and deleted."""
    php = needed(label, program)
    assert php.root is not None
    own = php.root / php.program.lstrip("/")
    renamed = php.root / "tmp" / "worker"
    shutil.copy(own, renamed)
    other = type(php)(php.label, php.minor, "/tmp/worker", php.root)
    with php.script("<?php fwrite(fopen('php://output', 'w'), 'ready'); flush(); sleep(60);", "sleeps.php") as script:
        for started in (php, other):
            with started.running("-q" if program.endswith("cgi") else "-n", script) as running:
                assert running.started.stdout is not None
                assert running.started.stdout.read(1)
                if started is other:
                    renamed.unlink()
                found = registry.detect(open_process(running.pid))
                assert isinstance(found, DetectedRuntime), found
                assert found.version.startswith(php_runs.version_of(php))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b"X-Powered-By: PHP/8.", b"X-Powered-By: PHP/9."), "RuntimeLayoutUnknown"),
        ((b"X-Powered-By: PHP/8.", b"X-Powered-By: PHP/5."), "RuntimeUnsupported"),
        ((b"\0API20220829,NTS\0", b"\0API20220828,NTS\0"), "RuntimeLayoutUnknown"),
        ((b"\0executor_globals\0", b"\0executor_globalz\0"), "RuntimeLayoutUnknown"),
    ],
)
def test_another_version_is_not_walked(change: tuple[bytes, bytes], reason: str) -> None:
    """A program that says it is another is traced without frames, and what it is is told."""
    php = needed(wanted_phps()[1])
    assert php.root is not None
    program = php.root / "tmp" / f"php-{reason}"
    content = (php.root / php.program.lstrip("/")).read_bytes()
    assert content.count(change[0]) >= 1
    program.write_bytes(content.replace(*change))
    program.chmod(0o755)
    other = type(php)(php.label, php.minor, f"/tmp/{program.name}", php.root)
    with (
        php.script("<?php echo 'r'; fgets(STDIN); file_exists('/nowhere');", "odd.php") as script,
        tempfile.TemporaryDirectory() as made,
    ):
        with other.running("-n", script) as running, truth.open_app(Path(made) / "spans.jsonl") as app:
            assert running.started.stdout is not None
            assert running.started.stdout.read(1) == b"r"
            found = registry.detect(open_process(running.pid))
            assert isinstance(found, Unsupported)
            assert (found.reason, found.implementation) == (reason, "PHP")
            app.select(running.pid, "odd")
            running.go_on(b"\n")
            truth.run_until(app, lambda: running.started.poll() is not None)
            app.end(10.0)
        spans = [span for span in truth.read_spans(Path(made) / "spans.jsonl") if "file.path" in span.attributes]
    program.unlink()
    assert spans
    assert all("code.stacktrace" not in span.attributes for span in spans)


@pytest.mark.parametrize("way", ["command", "script"])
def test_a_command_is_walked_from_its_first_line(way: str, tmp_path: Path) -> None:
    """`kernelspan run -- php SCRIPT`, or a script that names php: its walker is there before it begins."""
    php = needed("bookworm-8.2")  # of the suite that this machine's libraries are of
    assert php.root is not None
    program, script = str(php.root / "usr/bin/php8.2"), tmp_path / "kinds.php"
    environ = {"LD_LIBRARY_PATH": str(php.root / "usr/lib/x86_64-linux-gnu")}
    runs_here = subprocess.run([program, "-n", "-v"], env=environ, capture_output=True, check=False).returncode == 0
    require("kernel", runs_here, f"{program} does not run outside of its root")
    for file in php_runs.TARGETS.glob("*.php"):
        shutil.copy(file, tmp_path)
    script.write_text(f"#!{program} -n\n{script.read_text()}")
    script.chmod(0o755)
    command = [str(script)] if way == "script" else [program, "-n", str(script)]
    ran = truth.run_command([*command, str(tmp_path / "said"), "3"], tmp_path / "said", environ=environ)
    assert ran.status == 0, ran.errors
    verdict = judge(ran.said, truth.by_key(ran.spans), allow_outer_missing=True)
    assert verdict.said > 300
    assert verdict.right + verdict.pending == verdict.said, verdict
    assert verdict.pending < verdict.said / 10, verdict


def test_programs_that_become_php() -> None:
    """The walker comes at the first sight of PHP; a later such process is walked from its first system call."""
    php = needed(wanted_phps()[1])
    with php_runs.folder_in(php) as (folder, inside):
        outs = [f"said{number}" for number in range(TURNS)]
        turns = [shlex.join(php.command(f"{inside}/kinds.php", f"{inside}/{out}", "1")) for out in outs]
        until_seen = " || ".join(
            f'{{ echo . | {turn} ; sleep 1 ; grep -q \'code.file.path"[^}}]*kinds.php\' "$SPANS" ; }}'
            for turn in turns[1:]
        )
        ran = truth.run_command(["sh", "-c", f"{{ {until_seen} ; }} && echo . | {turns[0]}"], folder / outs[0])
        assert ran.status == 0, ran.errors
        spans = truth.by_key(ran.spans)
        verdicts = [
            judge(said, spans, allow_outer_missing=True) for out in outs if (said := truth.read_said(folder / out))
        ]
    assert len(verdicts) >= 2
    for verdict in verdicts:
        assert verdict.said > 100
        assert not verdict.wrong, verdict
        assert verdict.missed == 0, verdict
    assert verdicts[1].pending > 100  # else this shows nothing
    assert verdicts[0].right == verdicts[0].said, [str(verdict) for verdict in verdicts]


def test_a_program_that_embeds_php(tmp_path: Path) -> None:
    """A libphp in some other program: the thread that runs it has PHP's frames, another thread has none."""
    php = needed(wanted_phps()[1])
    assert php.root is not None
    library = phps.embedded(VERSION)
    with php_runs.folder_in(php) as (folder, inside):
        source = php_runs.TARGETS / "embed.c"
        subprocess.run(["gcc", "-w", str(source), "-o", str(folder / "host"), "-ldl", "-lpthread"], check=True)
        host = type(php)(php.label, php.minor, f"{inside}/host", php.root)
        with host.running(library, f"{inside}/kinds.php", f"{inside}/said", "10") as program:
            assert program.line() == "ready"
            with truth.open_app(tmp_path / "spans.jsonl") as app:
                traced = app.select(program.pid, "host")
                php_runs.wait_for_walker(app)
                program.go_on()
                truth.run_until(app, lambda: program.started.poll() is not None)
                app.end(10.0)
        assert traced.runtime is not None
        assert traced.runtime.file.endswith(library)
        outcome = php_runs.outcome([folder / "said"], tmp_path / "spans.jsonl", {})
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said > 1000
    assert verdict.right == verdict.said, verdict
    others = [span for span in outcome.all_spans if span.attributes.get("file.path") == "/kernelspan-thread"]
    assert len(others) > 10
    assert not any("code.stacktrace" in span.attributes for span in others)


def test_a_walker_that_cannot_be_had(tmp_path: Path) -> None:
    """PHP is traced without frames, and it is said why; Python beside it is traced as ever."""
    php, python = needed(wanted_phps()[1]), truth.needed(truth.wanted_pythons()[0])
    with (
        php_runs.started(php, "kinds", "2") as (program, out),
        truth.started(truth.Launch(python, "kinds", ("1",))) as (other, other_out),
    ):
        assert other.line() == "ready"
        environ = {**os.environ, "KERNELSPAN_CACHE": str(tmp_path / "objects")}
        with (
            mock.patch.dict(os.environ, environ),
            truth.open_app(tmp_path / "spans.jsonl") as app,
            mock.patch("kernelspan_agent.probes.children.PYTHON", "/bin/false"),
        ):
            traced = app.select(program.pid, "php")
            app.select(other.pid, "python")
            truth.run_until(app, lambda: traced.unsupported is not None)
            program.go_on()
            other.go_on()
            truth.run_until(app, lambda: program.started.poll() is not None and other.started.poll() is not None)
            app.end(10.0)
        assert traced.unsupported is not None
        assert traced.unsupported.reason == "CompileFailed"
        spans = truth.by_key(truth.read_spans(tmp_path / "spans.jsonl"))
        verdict = judge(truth.read_said(out), spans)
        assert dict(verdict.missing) == {"CompileFailed": verdict.said}, verdict
        truth.assert_true(judge(truth.read_said(other_out), spans, allow_outer_missing=True), 500)


def test_explain_shows_the_stack() -> None:
    """From outside, while it waits: the same frames as PHP's own, packages of Composer with their versions."""
    php = needed(wanted_phps()[1])
    with php_runs.folder_in(php) as (folder, inside):
        package = folder / "vendor" / "acme" / "reader"
        package.mkdir(parents=True)
        (package / "Reader.php").write_text(
            "<?php\nnamespace Acme;\nclass Reader {\n  public static function wait() {\n    return fgets(STDIN);\n  }\n}\n"
        )
        (folder / "vendor" / "composer").mkdir()
        (folder / "vendor" / "composer" / "installed.json").write_text(
            json.dumps({"packages": [{"name": "acme/reader", "version": "2.1.0", "install-path": "../acme/reader"}]})
        )
        (folder / "app.php").write_text(
            "<?php\nrequire __DIR__ . '/vendor/acme/reader/Reader.php';\nfunction gen() {\n  yield 1;\n  yield from inner();\n}\n"
            "function inner() {\n  echo 'r';\n  yield Acme\\Reader::wait();\n}\nforeach (gen() as $x) {\n}\n"
        )
        with php.running("-n", f"{inside}/app.php") as program:
            assert program.started.stdout is not None
            assert program.started.stdout.read(1) == b"r"
            program.parked()
            done = subprocess.run(
                [str(KERNELSPAN), "explain", "--pid", str(program.pid), "--json"],
                capture_output=True,
                text=True,
                check=True,
            )
    shown = json.loads(done.stdout)
    assert (shown["runtime"]["name"], shown["runtime"]["version"].startswith(VERSION)) == ("PHP", True)
    (thread,) = shown["threads"]
    frames = [(frame["function"], frame["file"].rpartition("/")[2], frame["line"]) for frame in thread["frames"]]
    assert frames == [
        ("fgets", "[internal function]", None),
        ("Acme\\Reader::wait", "Reader.php", 5),
        ("inner", "app.php", 9),
        ("gen", "app.php", 5),
        ("{main}", "app.php", 11),
    ]
    assert "pkg:composer/acme/reader@2.1.0" in json.dumps(shown)
    assert [site["distributions"] for site in shown["sites"]] == [1]
