# SPDX-License-Identifier: Apache-2.0
"""The house's own rules, as far as a test can read them: what a file may not say, must say, or may not grow to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written in parts, so that this file does not break the rules it holds.
_REGISTRIES = re.compile(
    r"\b(?:" + "|".join((
        r"(?:test\.)?pypi" + r"\.org", r"python" + r"hosted\.org", r"proxy\.golang" + r"\.org", r"sum\.golang" + r"\.org",
        r"registry\.npm" + r"js\.org", r"(?:deb|security|ftp|snapshot)(?:\.\w+)?\.debian" + r"\.org",
        r"archive\.ubuntu" + r"\.com", r"repo1?\.maven" + r"\.org", r"ruby" + r"gems\.org", r"packagist" + r"\.org",
        r"crates" + r"\.io", r"docker" + r"\.io/", r"registry\.k8s" + r"\.io", r"gh" + r"cr\.io", r"quay" + r"\.io",
    )) + r")\b"
)  # fmt: skip
_INDEX_OPTIONS = re.compile(r"--(?:extra-)?index" + r"-url|--trusted" + r"-host|GOPROXY" + r"=\s*http")
_MACHINE_PATHS = re.compile(r"(?<![\w.$}~*-])/(?:wo" + r"rk|roo" + r"t|home/\w+)/[\w.]")
_LEFT_OVER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
_DOWNLOAD = re.compile(r"https?://|\bfile:[/.]|@ ?git\+")
_SOURCES = {".py", ".pyi", ".c", ".h", ".sh", ".proto"}
_SPDX = "SPDX-License-Identifier: "
_DUAL = "GPL-2.0-only OR BSD-2-Clause"
_MAX_LINES = 400
_README_LINES = 40
# Helpers that change a process, a result or a packet, or stop one: SECURITY.md promises that none is used.
_FORBIDDEN_HELPERS = re.compile(
    r"\bbpf_(?:probe_write_user|override_return|send_signal(?:_thread)?|skb_store_bytes|skb_change_\w+|xdp_adjust_\w+|"
    r"redirect\w*|clone_redirect|msg_(?:push|pop)_data|setsockopt|sys_bpf|copy_to_user\w*|set_retval)\b"
)


@cache
def _files() -> tuple[str, ...]:
    """What git has or would take, as paths from the root; files deleted but not yet committed are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return tuple(sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file()))


@cache
def _text(name: str) -> str:
    data = (ROOT / name).read_bytes()
    return "" if b"\0" in data[:8192] else data.decode("utf-8")


def _hits(pattern: re.Pattern[str], names: Iterator[str] | tuple[str, ...]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in names
        for number, line in enumerate(_text(name).splitlines(), 1)
        if pattern.search(line)
    ]


def _code(*suffixes: str) -> Iterator[str]:
    return (name for name in _files() if name.endswith(suffixes) and "_pb2" not in name)


def _shell() -> Iterator[str]:
    return (name for name in _files() if re.match(r"#!.*\b(?:ba)?sh$", _text(name).split("\n", 1)[0]))


def test_no_registry_is_named() -> None:
    """Where packages come from is the machine's own configuration, never the project's."""
    assert _hits(_REGISTRIES, _files()) + _hits(_INDEX_OPTIONS, _files()) == []


def test_no_path_of_one_machine() -> None:
    """A path that holds on the author's machine alone is a bug everywhere else."""
    names = tuple(name for name in _files() if not name.startswith("tests/"))  # tests make up file systems
    assert _hits(_MACHINE_PATHS, names) == []
    assert [name for name in _files() if str(ROOT) != "/" and f"{ROOT}/" in _text(name)] == []


def test_nothing_is_left_for_later() -> None:
    """What is to be done stands in an issue, not in the code."""
    code = (*_code(*_SOURCES, ".yaml", ".yml", ".toml", ".go"), *_shell(), "Makefile")
    assert _hits(_LEFT_OVER, code) == []


def test_every_source_file_states_its_licence() -> None:
    """Apache-2.0, and in bpf/ the two that the kernel and others can take."""
    wrong = []
    for name in {*_code(*_SOURCES), *_shell(), "Makefile"}:
        head = "\n".join(_text(name).splitlines()[:3])
        if name.startswith("bpf/shim/") and not _text(name).strip():
            continue  # bcc asks for the header, nothing of it
        wanted = _DUAL if name.startswith("bpf/") else "Apache-2.0"
        if _SPDX + wanted not in head:
            wrong.append(name)
    assert sorted(wrong) == []


def test_modules_keep_to_their_size() -> None:
    """A module over the limit has more than one subject."""
    sizes = {name: len(_text(name).splitlines()) for name in _code(".py", ".c", ".h")}
    assert {name: lines for name, lines in sizes.items() if lines > _MAX_LINES} == {}


def test_every_module_states_its_policy() -> None:
    """A module begins with a docstring, unless there is nothing in it."""
    names = [name for name in _code(".py") if not name.startswith("examples/")]
    assert [
        name for name in names if ast.parse(_text(name)).body and not ast.get_docstring(ast.parse(_text(name)))
    ] == []


def test_every_top_level_folder_explains_itself() -> None:
    """At most 40 lines: what lives here, what must not, how to test it."""
    folders = sorted({name.split("/")[0] for name in _files() if "/" in name})
    folders = [name for name in folders if not name.startswith(".") and name != "LICENSES"]
    wrong = [
        name for name in folders if not 1 <= len(_text_if_there(f"{name}/README.md").splitlines()) <= _README_LINES
    ]
    assert "agent" in folders
    assert wrong == []


def _text_if_there(name: str) -> str:
    return _text(name) if (ROOT / name).is_file() else ""


def test_nothing_shadows_the_standard_library() -> None:
    """A package called operator, in the tree or among the tests, would break the interpreter."""
    assert [name for name in _files() if name == "operator/__init__.py" or re.match(r"tests/.*\boperator/", name)] == []


def _locks() -> list[str]:
    """Everything that looks like a lock of pip-compile, wherever it stands."""
    return [
        name for name in _files() if name.endswith(".txt") and re.search(r"^[\w.-]+==\S+", _text(name), re.MULTILINE)
    ]


def test_every_lock_has_hashes_and_no_address() -> None:
    """Each requirement is one exact version with at least one hash; nothing says where to get it."""
    assert {"requirements/agent.txt", "requirements/build.txt", "requirements/test.txt"} <= set(_locks())
    for name in _locks():
        entries = re.split(r"^(?=[\w.-]+(?:\[[\w,-]+\])?==)", _text(name), flags=re.MULTILINE)[1:]
        without = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
        loose = [
            line
            for line in _text(name).splitlines()
            if line.strip()
            and not re.match(r"\s*#|\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$|[\w.-]+(?:\[[\w,-]+\])?==\S+", line)
        ]
        assert (name, without, loose, _hits(_DOWNLOAD, (name,))) == (name, [], [], [])


def test_the_locks_agree() -> None:
    """They are installed into one environment: a package has one version in all of requirements/."""
    versions: dict[str, set[str]] = {}
    for name in _locks():
        if name.startswith("requirements/"):
            for package, version in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", _text(name), re.MULTILINE):
                versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_the_unrelated_bcc_is_not_asked_for() -> None:
    """bcc is the distribution's python3-bpfcc; the package index has something else under that name."""
    asked = ("pyproject.toml", *_code(".in"), *_locks())
    assert _hits(re.compile(r"^\s*\"?bcc\b"), asked) == []


def test_every_package_of_the_distribution_has_a_reason() -> None:
    """requirements/apt.txt: tier, package, reason."""
    lines = [line for line in _text("requirements/apt.txt").splitlines() if not line.startswith("#")]
    assert lines
    assert [
        line for line in lines if not re.match(r"(?:run|demo|test|e2e)\s+[a-z0-9.+-]+(?:\?|:\S+)?\s+\S+ \S+", line)
    ] == []


def _imports(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(_text(name))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def _foreign(name: str) -> set[str]:
    return {module for module in _imports(name) if module.split(".")[0] not in sys.stdlib_module_names}


def test_the_shared_types_need_numpy_only() -> None:
    """Every stage imports kernelspan_agent.model: what it imports, all of them pay for."""
    assert _foreign("agent/kernelspan_agent/model.py") == {"numpy"}


def test_the_compiling_child_needs_bcc_only() -> None:
    """It runs on the distribution's interpreter, where nothing of ours is installed."""
    assert _foreign("agent/kernelspan_agent/probes/compiler.py") <= {"bcc", "bcc.libbcc", "btf", "direct", "pidns"}
    beside = {"bpf", "btf", "kernelspan_agent.probes", "kernelspan_agent.probes.btf"}  # the one or the other
    assert _foreign("agent/kernelspan_agent/probes/direct.py") <= beside
    assert _foreign("agent/kernelspan_agent/probes/btf.py") == _foreign("agent/kernelspan_agent/probes/bpf.py") == set()


def test_no_kernel_program_can_change_anything() -> None:
    """Read-only for ever: no helper that writes to a process, changes a result or a packet, or sends a signal."""
    programs = (
        *_code(".c", ".h"),
        *(name for name in _code(".py") if name.startswith("agent/kernelspan_agent/probes/")),
    )
    assert any(name.endswith(".bpf.c") for name in programs)
    assert _hits(_FORBIDDEN_HELPERS, programs) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (_REGISTRIES, "see https://pypi" + ".org/simple"),
        (_REGISTRIES, "FROM gh" + "cr.io/x"),
        (_REGISTRIES, "FROM docker" + ".io/library/debian"),
        (_INDEX_OPTIONS, "pip install --index" + "-url x"),
        (_MACHINE_PATHS, "open('/wo" + "rk/main/x')"),
        (_MACHINE_PATHS, "cd /roo" + "t/.cache"),
        (_LEFT_OVER, "# TO" + "DO: later"),
        (_DOWNLOAD, "x @ https://host/x.whl"),
        (_FORBIDDEN_HELPERS, "bpf_probe_write_user(a, b, 1);"),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern: re.Pattern[str], text: str) -> None:
    """A pattern that finds nothing anywhere would hold every rule."""
    assert pattern.search(text)
