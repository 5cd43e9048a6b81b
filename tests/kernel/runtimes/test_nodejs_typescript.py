# SPDX-License-Identifier: Apache-2.0
"""What TypeScript's own compiler made of a program is shown by the lines of that program, as Node.js itself maps them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import npms, runs
from tests.support.node_runs import needed, wanted_nodes
from tests.support.truth import parse_stack

pytestmark = pytest.mark.root
PLACES = runs.PROGRAMS / "places.ts"
KINDS = {
    "beside": ("--sourceMap", "--target", "es2022"),
    "inside": ("--inlineSourceMap", "--target", "es2022"),
    "old": ("--sourceMap", "--target", "es5", "--lib", "es2020"),
}
_FRAME = re.compile(r"\s+at (?:.* \()?(/[^()]+):(\d+):(\d+)\)?")
Places = list[tuple[str, int]]


def compiled(folder: Path, node: str, *options: str) -> Path:
    """The program, compiled into dist/ beside src/."""
    (folder / "src").mkdir()
    source = Path(folder / "src/main.ts")
    source.write_text(PLACES.read_text())
    compiler = npms.folder() / "node_modules/typescript/bin/tsc"
    done = subprocess.run(
        [node, str(compiler), *options, "--module", "commonjs", "--outDir", str(folder / "dist"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    made = folder / "dist/main.js"
    assert made.exists(), done.stdout
    return made


def shown(program: Path, stack: str) -> Places:
    """Of frames the program's own."""
    return [(file, line) for _, file, line in parse_stack(stack) if file.startswith(str(program.parents[1]))]


def said(node: str, program: Path, output: str) -> dict[str, Places]:
    """The program's own frames in V8's traces, by the path that was asked for, with the authors' lines where a map has any."""
    traces: dict[str, list[tuple[int, int]]] = {}
    for each in output.splitlines():
        path, stack = json.loads(each)
        lines = [line for line in stack.splitlines() if "at async " not in line]
        frames = [found for line in lines if (found := _FRAME.fullmatch(line)) and found[1] == str(program)]
        traces[path] = [(int(found[2]), int(found[3])) for found in frames]
    every = sorted({place for each in traces.values() for place in each})
    command = [node, str(runs.PROGRAMS / "map_places.js"), str(program)]
    mapped = subprocess.run(command, input=json.dumps(every), capture_output=True, text=True, check=True)
    authors = dict(zip(every, json.loads(mapped.stdout), strict=True))
    return {
        path: [tuple(authors[place] or (str(program), place[0])) for place in each] for path, each in traces.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [wanted_nodes()[0], wanted_nodes()[-1]])
def test_lines_are_the_authors(label: str, kind: str, tmp_path: Path) -> None:
    """Every frame, on whichever side of an `await`: against the trace that the program has made on the same line."""
    node = str(needed(label).program)
    program = compiled(tmp_path, node, *KINDS[kind])
    profile = runs.profile(
        tmp_path,
        files={"operations": ["Stat"], "paths": ["/kernelspan-places/**"]},
        code={"stackTrace": "Attribute", "functions": False},
    )
    done = runs.run(tmp_path, profile, node, "--stack-trace-limit=50", str(program))
    assert done.status == 0, done.stderr
    expected = said(node, program, done.stdout.decode())
    assert len(expected) == 240
    found = {str(span.attributes["file.path"]): span for span in done.operations}
    known = {path: str(stack) for path, span in found.items() if (stack := span.attributes.get("code.stacktrace"))}
    assert len(known) >= 200
    both = {path: (shown(program, stack), expected[path]) for path, stack in known.items()}
    wrong = {path: each for path, each in both.items() if each[0] != each[1]}
    assert not wrong, next(iter(wrong.items()))
    author = str(tmp_path / "src/main.ts")
    assert all(sum(file == author for file, _ in each) >= 3 for each, _ in both.values())
    for path in known:
        attributes = found[path].attributes
        assert (attributes["code.file.path"], attributes["kernelspan.code.origin"]) == (author, "Runtime")
