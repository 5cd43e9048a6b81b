# SPDX-License-Identifier: Apache-2.0
"""Bad profiles: each gives the very problem it has, at its path, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kernelspan_api.problems import MAX_PROBLEMS
from kernelspan_api.profile import ProfileError, load, validate
from kernelspan_api.yamltext import MAX_BYTES

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


SPECS = [
    # types, bounds, unknown names
    ("{files: {minDurationMicroseconds: -1}}", "spec.files.minDurationMicroseconds", "an integer from 0 to 3600000000"),
    ("{files: {minDurationMicroseconds: 1.5}}", "spec.files.minDurationMicroseconds", "there are no fractions"),
    ("{files: {minDurationMicroseconds: 1e3}}", "spec.files.minDurationMicroseconds", "there are no fractions"),
    ("{files: {minDurationMicroseconds: .inf}}", "spec.files.minDurationMicroseconds", "there are no fractions"),
    ("{files: {minDurationMicroseconds: .nan}}", "spec.files.minDurationMicroseconds", "there are no fractions"),
    ("{files: {minDurationMicroseconds: 5ms}}", "spec.files.minDurationMicroseconds", "without quotes or units"),
    ("{files: {minDurationMicroseconds: true}}", "spec.files.minDurationMicroseconds", "must be an integer"),
    (f"{{files: {{minDurationMicroseconds: {'9' * 39}}}}}", "spec.files.minDurationMicroseconds", "must be an integer"),
    (f"{{files: {{minDurationMicroseconds: {'9' * 5000}}}}}", "spec.files.minDurationMicroseconds", "length"),
    ("{files: {minDuration: 5}}", "spec.files.minDuration", "did you mean minDurationMicroseconds?"),
    ("{files: {Paths: []}}", "spec.files.Paths", "did you mean paths?"),
    ("{files: {zzz: 5}}", "spec.files.zzz", "there are operations, paths, minDurationMicroseconds"),
    ("{files: {'a b': 5}}", 'spec.files["a b"]', "there is no such field"),
    ("{file: {}}", "spec.file", "did you mean files?"),
    ("{files: {<<: {}}}", 'spec.files["<<"]', "there is no such field"),
    ("{files: }", "spec.files", "write {}"),
    ("{files: []}", "spec.files", "must be an object"),
    ("{files: {operations: }}", "spec.files.operations", "write []"),
    ("{files: {operations: Read}}", "spec.files.operations", "a list of 1 to 64 items"),
    ("{files: {operations: []}}", "spec.files.operations", "a list of 1 to 64 items"),
    ("{files: {operations: [read]}}", "spec.files.operations[0]", "did you mean Read?"),
    ("{files: {operations: [Read, Connect]}}", "spec.files.operations[1]", "one of Open, Read, Write, Sync"),
    ("{files: {operations: [Read, Read]}}", "spec.files.operations[1]", "it is item 0 already"),
    ("{files: {operations: [{}]}}", "spec.files.operations[0]", "one of Open"),
    ("{files: {}, paused: 'true'}", "spec.paused", "true or false"),
    ("{files: {}, paused: 1}", "spec.paused", "true or false"),
    ("{files: {}, ttlSeconds: 0}", "spec.ttlSeconds", "from 1 to"),
    ("{files: {}, code: {maxDepth: 128}}", "spec.code.maxDepth", "an integer from 1 to 127"),
    ("{files: {}, code: {maxDepth: 0}}", "spec.code.maxDepth", "an integer from 1 to 127"),
    ("{files: {}, code: {maxDepth: 010}}", "spec.code.maxDepth", "without quotes"),
    ("{files: {}, code: {stacks: native}}", "spec.code.stacks", "did you mean Native?"),
    ("{files: {}, code: {stacks: null}}", "spec.code.stacks", "leave it out for the default"),
    ("{files: {}, sampling: {percent: 101}}", "spec.sampling.percent", "from 0 to 100"),
    ("{files: {}, limits: {cpuMillicores: 100m}}", "spec.limits.cpuMillicores", "without quotes or units"),
    ("{files: {}, resourceAttributes: {team: on}}", "spec.resourceAttributes.team", "put it in quotes"),
    ("{files: {}, resourceAttributes: {commit: 0E0}}", "spec.resourceAttributes.commit", "put it in quotes"),
    ("{files: {}, resourceAttributes: {commit: 123e45}}", "spec.resourceAttributes.commit", "put it in quotes"),
    ("{files: {}, resourceAttributes: {'a b': c}}", 'spec.resourceAttributes["a b"]', "the key must be an attribute"),
    (f"{{files: {{}}, resourceAttributes: {{a: '{'x' * 257}'}}}}", "spec.resourceAttributes.a", "this has 257"),
    ("{files: {}, namespaceSelector: {}}", "spec.namespaceSelector", "only a ClusterTraceProfile"),
    # formats
    ("{files: {paths: ['']}}", "spec.files.paths[0]", "1 to 1024 characters"),
    ('{files: {paths: ["/a\\0b"]}}', "spec.files.paths[0]", "NUL"),
    ('{files: {paths: ["/a\\ud800"]}}', "spec.files.paths[0]", "surrogate"),
    ("{files: {paths: [srv/data]}}", "spec.files.paths[0]", "would match nothing"),
    ("{files: {paths: ['/a[b']}}", "spec.files.paths[0]", "never closed"),
    ("{files: {paths: ['/a[]']}}", "spec.files.paths[0]", "never closed"),
    ("{files: {paths: ['/[!]']}}", "spec.files.paths[0]", "never closed"),
    (f"{{files: {{paths: [/{'x' * 1024}]}}}}", "spec.files.paths[0]", "this has 1025"),
    ("{network: {ports: [0]}}", "spec.network.ports[0]", "an integer from 1 to 65535"),
    ("{network: {ports: [65536]}}", "spec.network.ports[0]", "an integer from 1 to 65535"),
    ("{network: {ports: ['80']}}", "spec.network.ports[0]", "without quotes"),
    ("{network: {cidrs: [10.0.0.1/8]}}", "spec.network.cidrs[0]", "did you mean 10.0.0.0/8?"),
    ("{network: {cidrs: [10.0.0.0]}}", "spec.network.cidrs[0]", "an address range"),
    ("{network: {cidrs: [10.0.0.0/33]}}", "spec.network.cidrs[0]", "an address range"),
    ("{network: {cidrs: ['fe80::%eth0/64']}}", "spec.network.cidrs[0]", "an address range"),
    ("{network: {cidrs: [10.0.0.0/255.0.0.0]}}", "spec.network.cidrs[0]", "an address range"),
    ("{files: {}, redaction: {paths: ['(']}}", "spec.redaction.paths[0]", "unterminated subpattern"),
    ("{files: {}, redaction: {paths: ['(a+)+']}}", "spec.redaction.paths[0]", "a repeat"),
    ("{files: {}, redaction: {paths: ['(a|aa)*']}}", "spec.redaction.paths[0]", "an alternative inside a repeat"),
    ("{files: {}, redaction: {paths: ['(?:(?=a*)b){2,}']}}", "spec.redaction.paths[0]", "a repeat"),
    ("{files: {}, redaction: {paths: ['(a)\\1']}}", "spec.redaction.paths[0]", "back-references"),
    ("{files: {}, redaction: {paths: ['a*b*c*d*']}}", "spec.redaction.paths[0]", "more than 3 repeats"),
    ("{files: {}, redaction: {paths: ['[[a]]']}}", "spec.redaction.paths[0]", "nested set"),
    (
        f"{{files: {{}}, redaction: {{paths: ['{'(' * 99 + ')' * 99}']}}}}",
        "spec.redaction.paths[0]",
        "nested too deeply",
    ),
    (f"{{files: {{}}, redaction: {{arguments: [{'x' * 257}]}}}}", "spec.redaction.arguments[0]", "this has 257"),
    ("{files: {}, export: {otlp: {endpoint: 'collector'}}}", "spec.export.otlp.endpoint", "host:port"),
    ("{files: {}, export: {otlp: {endpoint: 'c:99999'}}}", "spec.export.otlp.endpoint", "host:port"),
    ("{files: {}, export: {otlp: {endpoint: 'ftp://c:1'}}}", "spec.export.otlp.endpoint", "host:port"),
    ("{files: {}, export: {otlp: {endpoint: 'http://u:p@c:1'}}}", "spec.export.otlp.endpoint", "headersSecretRef"),
    ("{files: {}, export: {otlp: {endpoint: 'http://[::1'}}}", "spec.export.otlp.endpoint", "host:port"),
    ("{files: {}, requests: [{protocol: HTTP2}]}", "spec.requests[0].protocol", "did you mean HTTP?"),
    ("{files: {}, requests: [{}]}", "spec.requests[0].protocol", "must be given: one of HTTP, GRPC"),
    ("{requests: [{protocol: HTTP, routes: [orders]}]}", "spec.requests[0].routes[0]", "begins with /"),
    ("{requests: [{protocol: HTTP, captureHeaders: ['a b']}]}", "spec.requests[0].captureHeaders[0]", "HTTP header"),
    # selectors
    ("{files: {}, podSelector: {matchLabels: {'-a': b}}}", 'spec.podSelector.matchLabels["-a"]', "label's key"),
    ("{files: {}, podSelector: {matchLabels: {a: b/c}}}", "spec.podSelector.matchLabels.a", "label's value"),
    (
        "{files: {}, podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "values for In and NotIn",
    ),
    (
        "{files: {}, podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "none for Exists",
    ),
    ("{files: {}, nodeSelector: {a: 5}}", "spec.nodeSelector.a", "put it in quotes"),
    (
        "{files: {}, workloadRef: {apiVersion: apps/v1, kind: Job, name: x}}",
        "spec.workloadRef.apiVersion",
        "batch/v1 for Job",
    ),
    (
        "{files: {}, workloadRef: {apiVersion: apps/v1, kind: Deployment, name: X}}",
        "spec.workloadRef.name",
        "a DNS name",
    ),
    ("{files: {}, processSelector: {runtimes: [python]}}", "spec.processSelector.runtimes[0]", "did you mean Python?"),
    # something to trace
    ("{}", "spec", "must trace something"),
    ("{requests: [], probes: []}", "spec", "must trace something"),
]

PROBES = [
    ("{}", "", "exactly one of kprobe, tracepoint, uprobe, usdt"),
    ("{kprobe: {call: f}, usdt: {path: Auto, provider: p, probe: q, endProbe: r}}", ".usdt", "exactly one of"),
    ("{kprobe: {}}", ".kprobe.call", "must be given"),
    ("{kprobe: {call: 'f()'}}", ".kprobe.call", "a kernel function"),
    ("{kprobe: {call: f, mechanism: Fentri}}", ".kprobe.mechanism", "did you mean Fentry?"),
    ("{tracepoint: {category: c, event: e}}", ".tracepoint.exitEvent", "mode Span"),
    ("{usdt: {path: Auto, provider: p, probe: q}}", ".usdt.endProbe", "mode Span"),
    ("{uprobe: {path: app, symbols: [f]}}", ".uprobe.path", "Auto, or an absolute path"),
    ("{uprobe: {path: /a/../b, symbols: [f]}}", ".uprobe.path", "it holds .."),
    ("{uprobe: {path: /a/.., symbols: [f]}}", ".uprobe.path", "it holds .."),
    ("{uprobe: {path: /a}}", ".uprobe", "at least one of symbols, offsets"),
    ("{uprobe: {path: /a, offsets: [-1]}}", ".uprobe.offsets[0]", "an integer from 0"),
    ("{kprobe: {call: f}, mode: Event, returns: {type: Int32, attribute: a}}", ".returns", "mode Event"),
    ("{kprobe: {call: f}, mode: Event, minDurationMicroseconds: 1}", ".minDurationMicroseconds", "mode Event"),
    ("{kprobe: {call: f}, mode: Event, errorWhen: {operator: LessThan, values: ['0']}}", ".errorWhen", "mode Event"),
    (
        "{kprobe: {call: f}, mode: Event, match: [{returns: [{operator: Equal, values: ['0']}]}]}",
        ".match[0].returns",
        "mode Event",
    ),
    (
        "{tracepoint: {category: c, event: e, raw: true}, mode: Event, args: [{field: f, type: FD, attribute: a}]}",
        ".args[0].field",
        "a raw tracepoint has no named fields",
    ),
    ("{kprobe: {call: f}, args: [{field: f, type: FD, attribute: a}]}", ".args[0].field", "only a tracepoint"),
    ("{kprobe: {call: f}, args: [{type: FD, attribute: a}]}", ".args[0]", "exactly one of index, field"),
    (
        "{tracepoint: {category: c, event: e}, mode: Event, args: [{index: 0, field: f, type: FD, attribute: a}]}",
        ".args[0].field",
        "exactly one of index, field",
    ),
    ("{kprobe: {call: f}, args: [{index: 0, type: Int, attribute: a}]}", ".args[0].type", "one of Int8"),
    ("{kprobe: {call: f}, args: [{index: 0, type: FD, attribute: a, resolve: a..b}]}", ".args[0].resolve", "dots"),
    ("{kprobe: {call: f}, match: [{}]}", ".match[0]", "1 to 8 conditions"),
    (
        "{kprobe: {call: f}, match: [{args: [{index: 0, operator: Equal, values: []}]}]}",
        ".match[0].args[0].values",
        "1 to 16",
    ),
    (
        "{kprobe: {call: f}, match: [{args: [{index: 0, operator: GreaterThan, values: [x]}]}]}",
        ".match[0].args[0].values[0]",
        "one whole number",
    ),
    (
        "{kprobe: {call: f}, match: [{args: [{index: 0, operator: Mask, values: ['1', '2']}]}]}",
        ".match[0].args[0].values",
        "one whole number",
    ),
    (
        "{kprobe: {call: f}, match: [{args: [{index: 0, operator: SourceCIDR, values: [x]}]}]}",
        ".match[0].args[0].values[0]",
        "an address range",
    ),
    (
        "{kprobe: {call: f}, match: [{args: [{index: 0, operator: SourcePort, values: ['0']}]}]}",
        ".match[0].args[0].values[0]",
        "a port",
    ),
    ("{kprobe: {call: f}, errorWhen: {operator: Family, values: [x]}}", ".errorWhen.operator", "sockets"),
    ("{kprobe: {call: f}, rateLimit: {}}", ".rateLimit.eventsPerSecond", "must be given"),
]


@pytest.mark.parametrize(("spec", "path", "message"), SPECS)
def test_bad_spec(spec: str, path: str, message: str) -> None:
    """One fault gives one problem, at the field that has it."""
    expect(f"{HEAD}spec: {spec}\n", path, message)


@pytest.mark.parametrize(("probe", "path", "message"), PROBES)
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
