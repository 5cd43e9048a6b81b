# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it, in a process of its own: exit codes, what stands on which stream, bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOOD = ROOT / "examples" / "01-python-files.yaml"
LATER = ROOT / "examples" / "later" / "24-inside-tls.yaml"


def kernelspan(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run of the command, with the outputs it wrote."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "KERNELSPAN_"))}
    return subprocess.run(
        [sys.executable, "-c", "from kernelspan_agent.cli import main; main()", *map(str, arguments)],
        env=plain | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command_without_importing_the_stages() -> None:
    """--help is quick because it needs neither numpy nor grpc."""
    script = "import sys\nfrom kernelspan_agent.cli import cli\ncli(['--help'], standalone_mode=False)\n"
    script += "print([name for name in ('numpy', 'grpc', 'yaml', 'prometheus_client') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in ("run", "check", "render", "explain", "completion"))
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage"),
        (["fly"], "No such command"),
        (["run"], "Missing option '-f'"),
        (["run", "-f", str(ROOT / "examples" / "02-network.yaml")], "nothing to trace"),
        (["run", "-f", str(GOOD), "--pid", "x"], "not a valid integer"),
        (["run", "-f", str(GOOD), "--pid", "1", "--", "true"], "not both"),
        (["run", "-f", str(GOOD), "--duration", "-1", "--", "true"], "--duration"),
        (
            ["run", "-f", str(GOOD), "--report", "/no/such/folder/x", "--", "true"],
            "--report '/no/such/folder/x': No such file",
        ),
        (["run", "-f", str(GOOD), "--report", "/", "--", "true"], "--report '/'"),
        (["run", "-f", "/no/such/profile", "--", "true"], "No such file or directory"),
        (["libraries"], "give --pid or --pod"),
        (["libraries", "--pid", "1", "--pod", "a/b"], "not both"),
        (["libraries", "--pid", "0"], "--pid"),
        (["libraries", "--pid", "1", "--context", "x"], "go with --pod"),
        (["libraries", "--pid", "1", "--duration", "-1"], "--duration"),
        (["libraries", "--pid", "1", "-f", "/no/such/profile"], "No such file or directory"),
        (["libraries", "--pid", "1", "-f", str(LATER)], "not available in this version"),
        (["libraries", "--pod", "a", "--duration", "0"], "must be NAMESPACE/NAME"),
        (["libraries", "--pod", "a/b", "--duration", "0", "--kubeconfig", "/no/such/file"], "/no/such/file"),
        (["render", "-f", str(LATER)], "not available in this version"),
        (["render", "-f", "/"], "Is a directory"),
        (["explain"], "give --pid or --pod"),
        (["explain", "--pid", "1", "--pod", "a/b"], "not both"),
        (["explain", "--pid", "1", "--context", "x"], "go with --pod"),
        (["explain", "--pod", "a"], "NAMESPACE/NAME"),
        (["explain", "--pod", "a/b", "--kubeconfig", "/no/such/file"], "no kubeconfig there"),
        (["explain", "--pod", "a/b", "--kubeconfig", str(GOOD)], "has no current-context"),
        (["explain", "--pod", "a/b", "--kubeconfig", str(ROOT / "Makefile")], "Makefile"),
        (["explain", "--pid", "0"], "0"),
        (["explain", "--pid", "99999999"], "there is no such process"),
        (["completion", "tcsh"], "'tcsh'"),
        (["list"], "Usage"),
        (["list", "colours"], "No such command 'colours'"),
        (["list", "functions"], "Missing argument 'PATTERN'"),
        (["list", "tracepoints", "a", "b"], "unexpected extra argument"),
        (["--log-level", "loud", "check"], "'loud'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_2_and_says_what_is_wrong(arguments: list[str], words: str) -> None:
    """Nothing on standard output, the reason on standard error, no traceback."""
    run = kernelspan(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_every_problem_of_a_profile_is_named(tmp_path: Path) -> None:
    """Where, what was found, what is allowed: all at once."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: x}\n"
        "spec:\n  files: {operations: [Open, Fly]}\n  sampling: {percent: 101}\n  nosuch: 1\n"
    )
    run = kernelspan("render", "-f", path)
    assert run.returncode == 2
    for words in ("3 problems", "spec.files.operations[1]", '"Fly"', "spec.sampling.percent", "101", "spec.nosuch"):
        assert words in run.stderr


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00", "&a [*a, *a]", "x" * (1 << 20) + "x"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    """YAML that is none, or none of ours, or too large."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    run = kernelspan("render", "-f", path)
    assert (run.returncode, run.stdout) == (2, "")
    assert "kernelspan: InvalidSpec: " in run.stderr


def test_the_environment_names_the_log_level() -> None:
    """A variable that is wrong is refused like an option."""
    run = kernelspan("render", "-f", GOOD, environment={"KERNELSPAN_LOG": "loud"})
    assert run.returncode == 2
    assert "loud" in run.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """`kernelspan render … | head -1` ends quietly."""
    script = f"{sys.executable} -c 'from kernelspan_agent.cli import main; main()' render -f {GOOD} | head -1"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.startswith("/* profile python-files")
    assert run.stderr == ""
