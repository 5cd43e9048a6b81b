# SPDX-License-Identifier: Apache-2.0
"""JVMs as processes: told by their libjvm, also in a program of somebody else's; JVMs that nobody can walk; `explain`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported
from tests.support import java_runs, javas, truth
from tests.support.java_runs import needed, wanted_javas
from tests.support.require import require
from tests.support.truth import judge

pytestmark = pytest.mark.root
KERNELSPAN = Path(sys.executable).with_name("kernelspan")


@pytest.mark.parametrize("label", wanted_javas())
def test_detected_by_its_library(label: str) -> None:
    """Name and version, from the library's own words."""
    java = needed(label)
    with java_runs.started(java, "Kinds", "1", "1") as (program, _):
        found = registry.detect(open_process(program.pid))
    assert isinstance(found, DetectedRuntime), found
    assert found.implementation == "OpenJDK Runtime Environment"
    major = javas.major_of(label)
    assert found.version.startswith("1.8.0_" if major == 8 else f"{major}."), found.version


@pytest.mark.parametrize("label", wanted_javas())
def test_a_program_that_embeds_a_jvm(label: str, tmp_path: Path) -> None:
    """Java that calls C that calls Java, in a thread that C has made: all Java frames of it, in their order."""
    java = needed(label)
    assert java.root is not None
    major = javas.major_of(label)
    library = f"{javas.home(major)}/lib/{'amd64/' if major == 8 else ''}server/libjvm.so"
    with java_runs.folder_in(java) as (folder, inside):
        source = javas.TARGETS / "host.c"
        subprocess.run(["gcc", "-w", "-O1", str(source), "-o", str(folder / "host"), "-ldl", "-lpthread"], check=True)
        host = type(java)(java.label, java.minor, f"{inside}/host", java.root)
        words = [library, f"{inside}/classes", "kernelspan/target/Calls", f"{inside}/said", "200"]
        with host.running(*words) as program, truth.open_app(tmp_path / "spans.jsonl", java_runs.PROFILE) as app:
            assert program.line() == "ready"
            traced = app.select(program.pid, "host")
            java_runs.wait_for_walker(app)
            java_runs.run(app, program, folder / "said")
            app.end(10.0)
        said = truth.read_said(folder / "said")
    assert traced.runtime is not None
    # Nobody says which of its directories is the application's.
    said = [type(each)(each.key, "", each.frames, each.pid, dict.fromkeys(each.app, False)) for each in said]
    verdict = judge(said, truth.by_key(truth.read_spans(tmp_path / "spans.jsonl")), allow_outer_missing=True)
    assert verdict.said == 500
    assert verdict.right == verdict.said, verdict
    assert verdict.truncated == 0, verdict


def test_a_command_is_walked_from_its_first_line(tmp_path: Path) -> None:
    """`kernelspan run -- java CLASS`: the walker is there before it begins; what is interpreted is named after its end, too."""
    java = shutil.which("java")
    require("kernel", java is not None, "this machine has no java")
    needed("bookworm-17")
    words = ["-Xint", "-cp", str(javas.classes()), "kernelspan.target.Kinds", str(tmp_path / "said"), "60", "5"]
    command = [str(java), *words]
    ran = truth.run_command(command, tmp_path / "said", profile=java_runs.PROFILE)
    assert ran.status == 0, ran.errors
    verdict = judge(ran.said, truth.by_key(ran.spans), allow_outer_missing=True)
    assert verdict.said > 2000
    assert not verdict.wrong, verdict
    assert verdict.missed == 0, verdict
    assert verdict.pending <= verdict.said / 2, verdict


def test_jvms_that_are_not_walked(tmp_path: Path) -> None:
    """OpenJ9 by its library, a libjvm without vmStructs, an image of GraalVM's: each by its name, and traced without frames."""
    source = tmp_path / "sleeps.c"
    source.write_text(
        "#include <dlfcn.h>\n#include <unistd.h>\n#include <stdio.h>\nvoid graal_create_isolate(void) {}\n"
        'int main(int c, char **v) { if (c > 1 && !dlopen(v[1], 2)) return 2; puts("r"); fflush(stdout); pause(); }\n'
    )
    program, image = tmp_path / "sleeps", tmp_path / "image"
    subprocess.run(["gcc", "-o", str(image), "-rdynamic", str(source), "-ldl"], check=True)
    source.write_text(source.read_text().replace("graal_create_isolate", "other"))
    subprocess.run(["gcc", "-o", str(program), str(source), "-ldl"], check=True)
    (tmp_path / "empty.c").write_text("int nothing;\n")
    for name in ("libj9vm29.so", "libjvm.so"):
        subprocess.run(["gcc", "-shared", "-o", str(tmp_path / name), str(tmp_path / "empty.c")], check=True)
    cases = (
        ([str(program), str(tmp_path / "libj9vm29.so")], "Eclipse OpenJ9"),
        ([str(program), str(tmp_path / "libjvm.so")], "Java"),
        ([str(image)], "GraalVM Native Image"),
    )
    for command, name in cases:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.read(1) == b"r"
            found = registry.detect(open_process(running.pid))
            running.kill()
        assert isinstance(found, Unsupported), (command, found)
        assert (found.reason, found.implementation) == ("RuntimeUnsupported", name)


def test_explain_shows_the_stacks() -> None:
    """From outside, while they wait: Java's own frames of every thread, and whose code each is."""
    java = needed("bookworm-17")
    with java_runs.started(java, "Kinds", "1", "1") as (program, _):
        program.parked()
        command = [str(KERNELSPAN), "explain", "--pid", str(program.pid), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    assert shown["runtime"]["version"].startswith("17.")
    main = next(
        thread for thread in shown["threads"] if any("Kinds.main" in each["function"] for each in thread["frames"])
    )
    frames = [(each["function"], each["file"], each["origin"]) for each in main["frames"]]
    assert frames[0] == ("java.io.FileInputStream.readBytes", "java/io/FileInputStream.java", "Runtime")
    assert frames[-1] == ("kernelspan.target.Kinds.main", "kernelspan/target/Kinds.java", "App")
    source = (javas.TARGETS / "Kinds.java").read_text().split("\n")
    assert "System.in.read()" in source[main["frames"][-1]["line"] - 1]
    assert any(
        each["function"].endswith("ReferenceHandler.run") for thread in shown["threads"] for each in thread["frames"]
    )


def test_a_python_program_with_a_jvm_in_it() -> None:
    """The executable's own runtime is the process's."""
    root = needed("bookworm-17").root
    assert root is not None
    library = root / javas.home(17).lstrip("/") / "lib/server/libjvm.so"
    text = f"import ctypes; ctypes.CDLL({str(library)!r}); print('r', flush=True); input()"
    with subprocess.Popen(["/usr/bin/python3", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.read(1) == b"r"
        found = registry.detect(open_process(running.pid))
        running.kill()
    assert isinstance(found, DetectedRuntime), found
    assert found.runtime == "python"
