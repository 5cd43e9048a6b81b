# SPDX-License-Identifier: Apache-2.0
"""Bad profiles: each gives the very problem it has, at its path, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kernelspan_api.problems import MAX_PROBLEMS
from kernelspan_api.profile import ProfileError, load, validate
from kernelspan_api.yamltext import MAX_BYTES
from tests.support.bad_profiles import BAD_PROBES, BAD_SPECS

HEAD = "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: x}\n"
CLUSTER = HEAD.replace("kind: Trace", "kind: ClusterTrace")


def problems(text: str | bytes, *, standalone: bool = True) -> list[tuple[str, str]]:
    """Path and message of everything wrong with `text`."""
    with pytest.raises(ProfileError) as caught:
        load(text, standalone=standalone)
    assert str(caught.value)
    return [(one.path, one.message) for one in caught.value.problems]


def expect(text: str | bytes, path: str, message: str, *, standalone: bool = True) -> None:
    """`text` has exactly this one problem; `message` is a part of what is said."""
    found = problems(text, standalone=standalone)
    assert [one[0] for one in found] == [path], found
    assert message in found[0][1]


@pytest.mark.parametrize(("spec", "path", "message"), BAD_SPECS)
def test_bad_spec(spec: str, path: str, message: str) -> None:
    """One fault gives one problem, at the field that has it."""
    expect(f"{HEAD}spec: {spec}\n", path, message)


@pytest.mark.parametrize(("probe", "path", "message"), BAD_PROBES)
def test_bad_probe(probe: str, path: str, message: str) -> None:
    """The same for probes of the user's own."""
    document = yaml.safe_load(HEAD)
    document["spec"] = {"probes": [{"name": "p", **yaml.safe_load(probe)}]}
    expect(yaml.safe_dump(document), f"spec.probes[0]{path}", message)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("", "", "there is nothing in it"),
        ("# only a comment", "", "there is nothing in it"),
        ("text", "", "must be an object with apiVersion"),
        ("[]", "", "must be an object with apiVersion"),
        ("null", "", "must be an object with apiVersion"),
        ("a: [", "", "must be YAML"),
        ("\ta: b", "", "must be YAML"),
        ("a: \x07", "", "must be YAML"),
        ("a: *b", "", "undefined alias"),
        (b"\xff\xfe\x00", "", "UTF-8"),
        ('a: "\\U00FFFFFF"', "", "must be YAML"),
        ('a: "\\UFFFFFFFF"', "", "must be YAML"),
        ("[" * 5000, "", "deeper than 32"),
        ("- " * 5000, "", "deeper than 32"),
        ("? " * 5000, "", "deeper than 32"),
        (f"{HEAD}---\n{HEAD}", "", "exactly one YAML document"),
        ("x" * (MAX_BYTES + 1), "", "bytes long"),
        ("é" * (MAX_BYTES // 2 + 1), "", "bytes long"),
        ("!!python/object/apply:os.system [x]", "", "must not have a tag"),
        ("a: &a [*a]", "a" + "[0]" * 32, "aliases expanded"),
        (f"{HEAD}spec: {{files: {{}}, files: {{}}}}", "spec.files", "must be given once; it is on line 4 already"),
        (f"{HEAD}spec: {{files: {{}}, 1: {{}}}}", "spec", "strings as keys"),
        (f"{HEAD}spec: {{files: {{}}, [a]: {{}}}}", "spec", "strings as keys"),
        (f"{HEAD}spec: {{files: {{}}, on: {{}}}}", "spec", "strings as keys"),
        (f"{HEAD}spec: {{files: !!set {{}}}}", "spec.files", "must not have a tag"),
        (f"{HEAD}spec: {{files: {{}}, ttlSeconds: !!int x}}", "spec.ttlSeconds", "a plain value"),
        (HEAD, "spec", "must be given: an object"),
        (HEAD.replace("v1alpha1", "v1") + "spec: {files: {}}", "apiVersion", "must be kernelspan.io/v1alpha1"),
        (HEAD.replace("TraceProfile", "Traceprofile") + "spec: {files: {}}", "kind", "did you mean TraceProfile?"),
        (HEAD.replace("{name: x}", "{name: X_}") + "spec: {files: {}}", "metadata.name", "a DNS name"),
        (HEAD.replace("{name: x}", "{}") + "spec: {files: {}}", "metadata.name", "must be given"),
        (HEAD.replace("{name: x}", "{name: x, zone: y}") + "spec: {files: {}}", "metadata.zone", "no such field"),
    ],
)
def test_bad_document(text: str | bytes, path: str, message: str) -> None:
    """What is no YAML, no object, no profile, or wants to fill the memory."""
    expect(text, path, message)


def test_alias_bomb() -> None:
    """Nine aliases of nine aliases: refused before they are expanded."""
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    ((_, message),) = problems(text)
    assert "aliases expanded" in message


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{files: {}}", "spec"),
        (
            "{files: {}, podSelector: {}, workloadRef: {apiVersion: apps/v1, kind: Deployment, name: x}}",
            "spec.workloadRef",
        ),
    ],
)
def test_exactly_one_selector(spec: str, path: str) -> None:
    """The API server wants one selector of pods; a run on one machine takes none or both."""
    for head in (HEAD, CLUSTER):
        expect(f"{head}spec: {spec}", path, "exactly one of podSelector, workloadRef", standalone=False)
        load(f"{head}spec: {spec}", standalone=True)


def test_condition_limit_counts_all_kinds() -> None:
    """Eight conditions in all, not eight of each kind."""
    condition = {"operator": "Equal", "values": ["0"]}
    entry = {"args": [{"index": 0, **condition}] * 8, "returns": [condition]}
    probe = {"name": "p", "kprobe": {"call": "f"}, "match": [entry]}
    document: dict[str, Any] = {**yaml.safe_load(HEAD), "spec": {"probes": [probe]}}
    expect(yaml.safe_dump(document), "spec.probes[0].match[0]", "1 to 8 conditions")
    entry["args"].pop()
    load(yaml.safe_dump(document), standalone=True)


def test_probe_names_are_unique() -> None:
    """Named lists are list-maps: the same name twice is refused at the second."""
    probe = {"name": "p", "kprobe": {"call": "f"}}
    document = {**yaml.safe_load(HEAD), "spec": {"probes": [probe, {**probe, "name": "q"}, probe]}}
    expect(yaml.safe_dump(document), "spec.probes[2].name", "it is item 0 already")


def test_all_problems_are_found_with_values_and_lines() -> None:
    """Faults of every kind in one document are all reported, in the order of its lines."""
    text = f"""{HEAD}spec:
  files:
    minDuration: 3
    paths:
      - /ok
      - relative
  files: {{}}
  network: {{ports: [80, 0]}}
  code:
    maxDepth: 4000
  probes:
    - name: p
      mode: Event
      minDurationMicroseconds: 5
"""
    with pytest.raises(ProfileError) as caught:
        load(text)
    assert [(one.path, one.value, one.line) for one in caught.value.problems] == [
        ("spec", "", 4),
        ("spec.files.minDuration", "", 6),
        ("spec.files.paths[1]", '"relative"', 9),
        ("spec.files", "", 10),
        ("spec.network.ports[1]", "0", 11),
        ("spec.code.maxDepth", "4000", 13),
        ("spec.probes[0]", "", 15),
        ("spec.probes[0].minDurationMicroseconds", "5", 17),
    ]
    assert "spec.code.maxDepth: must be an integer from 1 to 127 (got 4000, line 13)" in str(caught.value).splitlines()


def test_a_rule_is_not_asked_of_what_is_broken() -> None:
    """A misspelt field may be what a rule misses: one fault is not reported as two."""
    expect(f"{HEAD}spec: {{podSelectr: {{}}, files: {{}}}}", "spec.podSelectr", "podSelector", standalone=False)
    expect(f"{HEAD}spec: {{podSelector: {{}}, flies: {{}}}}", "spec.flies", "files", standalone=False)


def test_problems_are_bounded_and_safe_to_print() -> None:
    """Hostile values neither flood nor steer a terminal."""
    spec = {"files": {f"\x1b[2J{n}": "\x1b" * 1000 for n in range(500)}, "resourceAttributes": {"a": "\x9b\n" * 1000}}
    with pytest.raises(ProfileError) as caught:
        validate({**yaml.safe_load(HEAD), "spec": spec}, standalone=True)
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert "401 more" in caught.value.problems[-1].message
    assert all(line.isprintable() and len(line) < 500 for line in str(caught.value).split("\n"))


@pytest.mark.parametrize("key", [5, None, b"x", ("a",)])
def test_objects_of_an_api_client_may_be_anything(key: object) -> None:
    """`validate` takes what no text could hold, and refuses it like the rest."""
    with pytest.raises(ProfileError):
        validate({**yaml.safe_load(HEAD), "spec": {"files": {}, key: 1}}, standalone=True)
    with pytest.raises(ProfileError):
        validate({**yaml.safe_load(HEAD), "spec": {"files": {}, "resourceAttributes": {key: "x"}}}, standalone=True)
    with pytest.raises(ProfileError):
        validate(key)
