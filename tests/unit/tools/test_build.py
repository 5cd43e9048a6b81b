# SPDX-License-Identifier: Apache-2.0
"""The cache of built tools, with a stand-in for Go: what is built when, what is left after a failure, who waits."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.build import build, cache_folder
from tools.errors import ToolError
from tools.families import TOOLS_FOLDER, load_families, select

# Answers `go env`, notes every build, and writes its working folder's source.txt and go.mod as the "binary".
_STAND_IN = """\
#!/bin/sh
echo "$*" >> "$STAND_IN_LOG"
case $1 in
env) echo "${STAND_IN_VERSION:-go9.9}"; echo linux; echo amd64 ;;
build)
    [ -z "$STAND_IN_FAILS" ] || { echo "main.go:1: the stand-in fails" >&2; exit 3; }
    while [ "$1" != -o ]; do shift; done
    cat source.txt go.mod > "$2" && chmod +x "$2" ;;
generate) echo overwritten > go.mod; echo generated > source.txt.new ;;
esac
"""


class Bench:
    """A tools folder with one family, a stand-in for Go, a cache; `calls` tells what the stand-in was asked."""

    def __init__(self, folder: Path) -> None:
        self.tools = folder / "tools"
        self.family = self.tools / "one"
        self.family.mkdir(parents=True)
        self.describe('[binaries.alpha]\npackage = "."\n')
        (self.family / "source.txt").write_text("source\n", "ascii")
        (self.family / "go.mod").write_text("module one\n", "ascii")
        go = folder / "bin" / "go"
        go.parent.mkdir()
        go.write_text(_STAND_IN, "ascii")
        go.chmod(0o755)
        self.log = folder / "calls"
        self.cache = folder / "cache"
        self.environment = {
            "PATH": f"{go.parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(self.cache),
            "STAND_IN_LOG": str(self.log),
        }
        self.said: list[str] = []

    def describe(self, text: str) -> None:
        (self.family / "family.toml").write_text(text, "utf-8")

    def build(self, *names: str, **environment: str) -> dict[str, Path]:
        return build(names, self.said.append, self.environment | environment, self.tools)

    def calls(self, verb: str) -> int:
        return sum(line.startswith(verb) for line in self.log.read_text("ascii").splitlines())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench of its own for each test."""
    return Bench(tmp_path)


def test_builds_once_and_then_finds(bench: Bench) -> None:
    """The second call finds what the first one built, below the cache folder and nowhere in the checkout."""
    before = sorted(bench.tools.rglob("*"))
    first = bench.build()
    assert first["alpha"].read_text("ascii") == "source\nmodule one\n"
    assert first["alpha"].is_relative_to(bench.cache / "kernelspan" / "tools")
    assert bench.build("one") == bench.build("alpha") == first
    assert bench.calls("build") == 1
    assert sorted(bench.tools.rglob("*")) == before


@pytest.mark.parametrize("changed", ["source.txt", "go.mod", "family.toml", "new/file.go"])
def test_every_input_is_in_the_key(bench: Bench, changed: str) -> None:
    """A changed, or a new, file of the family means another folder; the old one stays for other checkouts."""
    first = bench.build()["alpha"]
    path = bench.family / changed
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="ascii") as source:
        source.write("# more\n")
    second = bench.build()["alpha"]
    assert first.parent != second.parent
    assert first.exists()
    assert bench.calls("build") == 2


def test_another_go_is_another_key(bench: Bench) -> None:
    """What another version of Go built is not taken for what this one would build."""
    assert bench.build()["alpha"] != bench.build(STAND_IN_VERSION="go9.10")["alpha"]


def test_what_is_pinned_wins_over_what_a_generator_writes(bench: Bench) -> None:
    """A generator's files are built, but it cannot replace one that is checked in."""
    bench.describe(
        'generate = [["go", "generate"], ["mv", "source.txt.new", "more.txt"]]\n[binaries.alpha]\npackage="."'
    )
    assert bench.build()["alpha"].read_text("ascii") == "source\nmodule one\n"
    assert bench.calls("generate") == 1


def test_failed_build_leaves_nothing_and_is_tried_again(bench: Bench) -> None:
    """The error holds the compiler's words and the log's place; no half-built folder is taken for a whole one."""
    with pytest.raises(ToolError, match=r"ended with 3:\nmain.go:1: the stand-in fails") as caught:
        bench.build(STAND_IN_FAILS="yes")
    log = Path(caught.value.hint.rpartition(" ")[2])
    assert "the stand-in fails" in log.read_text("ascii")
    kept = {path.name for path in (bench.cache / "kernelspan" / "tools").iterdir()}
    assert kept == {"one.lock", "one.log"}
    assert bench.build()["alpha"].exists()


def test_thinned_out_folder_is_built_again(bench: Bench) -> None:
    """A binary that somebody deleted comes back, and so do leftovers of a killed build go."""
    path = bench.build()["alpha"]
    path.unlink()
    leftover = path.parent.parent / ".one" / "killed"
    leftover.mkdir(parents=True)
    assert bench.build()["alpha"] == path
    assert path.exists()
    assert not leftover.exists()


def test_builders_at_once_build_once(bench: Bench) -> None:
    """While one holds the family's lock another waits, says so, and uses what the first one made."""
    cache = cache_folder(bench.environment)
    cache.mkdir(parents=True)
    results: list[dict[str, Path]] = []
    waiting = threading.Event()

    def say(text: str) -> None:
        if "waiting" in text:
            waiting.set()

    def wait_and_build() -> None:
        results.append(build((), say, bench.environment, bench.tools))

    with (cache / "one.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [threading.Thread(target=wait_and_build) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert waiting.wait(10)
        assert bench.calls("env") >= 1
        assert bench.calls("build") == 0
    for thread in threads:
        thread.join(10)
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert bench.calls("build") == 1


def test_lock_outlasts_a_killed_builder(bench: Bench) -> None:
    """While a compiler of a builder that was killed still runs, nobody builds beside it."""
    script = 'echo $$ > "$STAND_IN_LOG.pid"; exec sleep 600'
    bench.describe(f"""generate = [["sh", "-c", '{script}']]\n[binaries.alpha]\npackage = "."\n""")
    code = (
        "import os, sys; from pathlib import Path; from tools.build import build; "
        "build((), print, os.environ, Path(sys.argv[1]))"
    )
    builder = subprocess.Popen(
        [sys.executable, "-c", code, bench.tools], cwd=TOOLS_FOLDER.parent, env=os.environ | bench.environment
    )
    pid_file = Path(f"{bench.log}.pid")
    while not (pid_file.exists() and pid_file.read_text("ascii").endswith("\n")):
        assert builder.poll() is None
        time.sleep(0.01)
    builder.kill()
    builder.wait()
    with (cache_folder(bench.environment) / "one.lock").open("w") as lock:
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(int(pid_file.read_text("ascii")), signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_missing_go_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Go the error says where it was looked for and what to do."""
    monkeypatch.setattr("tools.gotool._USUAL_PLACES", (Path("/nonexistent/go"),))
    with pytest.raises(ToolError, match=r"Go is not installed: no `go` in PATH and none in /nonexistent") as caught:
        bench.build(PATH="/nonexistent")
    assert "install Go" in caught.value.hint


def test_go_that_is_too_old_is_quoted(bench: Bench) -> None:
    """What Go says against the family's go.mod is in the error."""
    go = bench.cache.parent / "bin" / "go"
    go.write_text("#!/bin/sh\necho 'go.mod requires go >= 99 (running go 1.2)' >&2\nexit 1\n", "ascii")
    with pytest.raises(ToolError, match=r"go\.mod requires go >= 99"):
        bench.build()


def test_unwritable_cache_is_said(bench: Bench) -> None:
    """A cache folder that cannot be made is an error with the remedy, not a traceback."""
    bench.cache.write_text("a file where the folder should be", "ascii")
    with pytest.raises(ToolError, match="cannot write the cache folder") as caught:
        bench.build()
    assert "XDG_CACHE_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/kernelspan/tools"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/kernelspan/tools"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/kernelspan/tools"),
        ({"HOME": "/h"}, "/h/.cache/kernelspan/tools"),
    ],
)
def test_cache_folder(environment: dict[str, str], folder: str) -> None:
    """XDG_CACHE_HOME counts if it is absolute, else ~/.cache."""
    assert cache_folder(environment) == Path(folder)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("", r"\[binaries.NAME\] must describe"),
        ("binaries = 3", r"\[binaries.NAME\] must describe"),
        ("not toml", "family.toml: "),
        ('[binaries.alpha]\npackage = ""', "alpha.package: must be"),
        ('[binaries.alpha]\npackage = "."\ntag = []', "unknown tag"),
        ('[binaries."../alpha"]\npackage = "."', "a name must be"),
        ('[binaries.alpha]\npackage = "."\ntags = "x"', "alpha.tags: must be a list"),
        ('[binaries.alpha]\npackage = "."\nldflags = 3', "alpha.ldflags: must be a string"),
        ("binaries.alpha = 3", "binaries.alpha: must be a table"),
        ('ldflags = 3\n[binaries.alpha]\npackage = "."', "ldflags: must be a string"),
        ('tags = "x"\n[binaries.alpha]\npackage = "."', "tags: must be a list"),
        ('generate = "go"\n[binaries.alpha]\npackage = "."', "generate: must be a list of commands"),
        ('generate = [[]]\n[binaries.alpha]\npackage = "."', "a command must not be empty"),
        ('other = 1\n[binaries.alpha]\npackage = "."', "unknown other"),
    ],
)
def test_bad_description_is_refused(bench: Bench, description: str, message: str) -> None:
    """Each mistake in a family.toml has an error that names the file and the place."""
    bench.describe(description)
    with pytest.raises(ToolError, match=message) as caught:
        bench.build()
    assert str(bench.family) in str(caught.value)


def test_one_binary_in_two_families_is_refused(bench: Bench) -> None:
    """Names of binaries are unique over all families, because tests ask by that name alone."""
    shutil.copytree(bench.family, bench.tools / "two")
    with pytest.raises(ToolError, match="alpha is described by both one and two"):
        bench.build()


def test_unknown_name_is_refused(bench: Bench) -> None:
    """A name that is none is refused with the names there are."""
    with pytest.raises(ToolError, match="no such tool: beta") as caught:
        bench.build("alpha", "beta")
    assert caught.value.hint == "known: alpha, one"


def test_command_line_reports_errors(tmp_path: Path) -> None:
    """`python3 -m tools` ends with 1 and a sentence for an unknown name, and lists what there is."""
    command = [sys.executable, "-m", "tools"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    bad = subprocess.run(
        [*command, "nothing"], cwd=TOOLS_FOLDER.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("tools: no such tool: nothing\ntools: known: ")
    listed = subprocess.run(
        [*command, "--list"], cwd=TOOLS_FOLDER.parent, env=environment, capture_output=True, text=True, check=True
    )
    assert {"collector\totelcol", "jaeger\tjaeger"} <= set(listed.stdout.splitlines())


def test_every_family_pins_its_modules() -> None:
    """Each family has a go.mod with its sums, and says `go` versions that are the same for all."""
    for family in load_families():
        for module in family.folder.glob("*.mod"):
            assert module.with_suffix(".sum").stat().st_size > 0, module
            lines = module.read_text("utf-8").splitlines()
            assert [line for line in lines if line.startswith("go ")], module
            assert not [line for line in lines if line.startswith("replace ") and " ../" in line], module


def test_collector_is_made_of_the_versions_that_its_manifest_names() -> None:
    """manifest.yaml and go.mod agree: a version changed in one alone would be built without a word."""
    folder = TOOLS_FOLDER / "collector"
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text("utf-8"))
    named = {part["gomod"] for kind, parts in manifest.items() if kind != "dist" for part in parts}
    pinned = {line.strip() for line in (folder / "go.mod").read_text("utf-8").splitlines()}
    assert named
    assert not named - pinned
    builder = (folder / "builder.mod").read_text("utf-8")
    assert f"go.opentelemetry.io/collector/cmd/builder v{manifest['dist']['version']}" in builder


def test_kubernetes_is_of_one_version_throughout() -> None:
    """The whole is v1.N.P, each of its parts v0.N.P, and the programs say that they are it."""
    folder = TOOLS_FOLDER / "kubernetes"
    lines = (folder / "go.mod").read_text("utf-8").splitlines()
    (version,) = {line.split()[1] for line in lines if line.strip().startswith("k8s.io/kubernetes v")}
    parts = {line.split()[-1] for line in lines if " => k8s.io/" in line}
    assert parts == {f"v0{version.removeprefix('v1')}"}
    family = next(one for one in load_families() if one.name == "kubernetes")
    minor = version.split(".")[1]
    for binary in family.binaries:
        stamped = dict(re.findall(r"-X (\S+)=(\S+)", binary.ldflags))
        assert {stamped[name] for name in stamped if name.endswith(".gitVersion")} == {version}
        assert {stamped[name] for name in stamped if name.endswith(".gitMinor")} == {minor}


def test_helm_says_its_version_and_that_of_its_client() -> None:
    """Unstamped it takes itself for 3.21 without a patch, and every chart for one of Kubernetes 1.20."""
    text = (TOOLS_FOLDER / "helm/go.mod").read_text("utf-8")
    found = dict(re.findall(r"^\s*(?:require )?(\S+) (v\S+)", text, re.MULTILINE))
    (binary,) = next(one for one in load_families() if one.name == "helm").binaries
    stamped = dict(re.findall(r"-X (\S+)=(\S+)", binary.ldflags))
    assert stamped["helm.sh/helm/v3/internal/version.version"] == found["helm.sh/helm/v3"]
    minor = found["k8s.io/client-go"].split(".")[1]
    minors = {value for name, value in stamped.items() if name.endswith("k8sVersionMinor")}
    assert minors == {minor}


def test_flags_of_a_family_are_those_of_each_program(bench: Bench) -> None:
    """Tags and linker flags of the family come before the program's own."""
    bench.describe(
        'tags = ["a"]\nldflags = "-X a=1"\n[binaries.alpha]\npackage = "."\ntags = ["b"]\nldflags = "-X b=2"'
    )
    bench.build()
    assert "-tags=a,b -ldflags=-s -w -X a=1 -X b=2 " in bench.log.read_text("ascii")


def test_selecting_nothing_means_all() -> None:
    """No names: every family, so that a new folder needs no other entry."""
    families = load_families()
    assert select(families, ()) == families
    assert [family.name for family in families] == sorted(
        path.parent.name for path in TOOLS_FOLDER.glob("*/family.toml")
    )
    assert all(tomllib.loads((family.folder / "family.toml").read_text("utf-8")) for family in families)
