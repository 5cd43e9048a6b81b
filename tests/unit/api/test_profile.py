# SPDX-License-Identifier: Apache-2.0
"""Good profiles: defaults, what is refused by name, what a run on one machine ignores."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kernelspan_api.profile import (
    ClusterTraceProfile,
    TraceProfile,
    ignored_standalone,
    load,
    unavailable,
    validate,
)
from kernelspan_api.resource import ClusterSpec
from kernelspan_api.selectors import Runtime
from kernelspan_api.userprobes import Mode

HEAD = "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: x}\n"

# Every field of a spec, set, and set to what is not its default.
FULL = """
apiVersion: kernelspan.io/v1alpha1
kind: ClusterTraceProfile
metadata: {name: full, labels: {app.kubernetes.io/part-of: shop}, annotations: {example.com/a: "any text\\n"}}
spec:
  workloadRef: {apiVersion: batch/v1, kind: CronJob, name: nightly}
  namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [infra]}]}
  containerSelector: {include: ["app-*"], exclude: [istio-proxy]}
  nodeSelector: {kubernetes.io/arch: amd64}
  processSelector: {executables: [/usr/bin/python3*, gunicorn], runtimes: [Python]}
  requests:
    - protocol: HTTP
      roles: [Server]
      ports: [8080]
      captureHeaders: [x-request-id]
      captureQuery: true
      statement: Raw
      ignorePaths: [/healthz]
      routes: ["/orders/{id}"]
      tls: UserProbes
    - {protocol: HTTP}
  files: {operations: [Open, List], paths: ["/srv/**", "*.db", "/a[]b]"], minDurationMicroseconds: 1000}
  network: {operations: [Resolve], ports: [53], cidrs: [10.0.0.0/8, "fd00::/8"], minDurationMicroseconds: 1}
  processes: {operations: [Exec]}
  waits: {operations: [OffCPU], minDurationMicroseconds: 1000}
  probes:
    - name: db-send
      kprobe: {call: tcp_sendmsg, syscall: true, mechanism: KprobeMulti}
      span: {name: tcp.send, kind: Client, attributes: {team: payments}}
      args: [{index: 0, type: Sock, attribute: network, maxBytes: 16, resolve: sk.sk_prot}]
      returns: {type: Int32, attribute: tcp.sent}
      match:
        - args: [{index: 2, operator: GreaterThan, values: ["65536"]}, {index: 0, operator: SourceCIDR, values: [10.0.0.0/8]}]
          returns: [{operator: LessThan, values: ["-0x1"]}]
          binaries: [{operator: In, values: [/usr/bin/python3]}]
          capabilities: [{set: Effective, operator: In, values: [CAP_SYS_ADMIN]}]
          namespaces: [{type: Pid, operator: NotEqual, values: [Host]}]
      minDurationMicroseconds: 5
      errorWhen: {operator: LessThan, values: ["0"]}
      rateLimit: {eventsPerSecond: 500, burst: 1000, scope: Process}
    - name: exec
      tracepoint: {category: sched, event: sched_process_exec, raw: true}
      mode: Event
    - name: exit
      tracepoint: {category: syscalls, event: sys_enter_read, exitEvent: sys_exit_read}
      args: [{field: count, type: Size, attribute: bytes}]
    - {name: quote, uprobe: {path: /app/pricing, symbols: ["main.(*Engine).Quote"], offsets: [4096], abi: Go}}
    - {name: gc, usdt: {path: Auto, provider: python, probe: gc__start, endProbe: gc__done}}
  code:
    stacks: Native
    maxDepth: 127
    appPaths: ["/srv/**"]
    libraryPaths: ["*/vendor/*"]
    functions: false
    stackTrace: Attribute
    kernelStack: true
  correlation: {traceparent: Ignore, acrossServices: true, orphans: Root}
  sampling: {percent: 0, parentBased: false, keepErrors: true, keepSlowerThanMilliseconds: 250}
  limits: {eventsPerSecond: 1, spansPerSecond: 1, cpuMillicores: 1, onExceed: Detach}
  redaction: {headers: [authorization], arguments: ["pass(word)?=.*"], paths: ["/home/[^/]+"], commandLine: Hash}
  resourceAttributes: {deployment.environment.name: prod}
  export:
    otlp:
      endpoint: https://collector:4318
      protocol: HTTP
      tls:
        insecureSkipVerify: true
        serverName: otel
        caSecretRef: {name: ca}
        certificateSecretRef: {name: client}
      headersSecretRef: {name: headers}
      compression: None
  paused: true
  ttlSeconds: 3600
"""


def spec(text: str, **options: Any) -> TraceProfile:
    """A profile with this spec, for one machine."""
    return load(f"{HEAD}spec: {text}", standalone=True, **options)


def test_defaults_are_the_documented_ones() -> None:
    """What a profile leaves out is filled in."""
    loaded = spec("{files: {}, network: {}}").spec
    assert loaded.files is not None
    assert loaded.files.operations == ("Open", "Read", "Write", "Sync", "Rename", "Remove", "Stat", "List")
    assert (loaded.files.paths, loaded.files.min_duration_microseconds) == ((), 0)
    assert loaded.processes is None
    assert (loaded.code.max_depth, loaded.code.stacks.value, loaded.code.functions) == (64, "Managed", True)
    assert (loaded.code.stack_trace.value, loaded.code.kernel_stack) == ("None", False)
    assert (loaded.correlation.traceparent.value, loaded.correlation.orphans.value) == ("Read", "Activity")
    assert (loaded.sampling.percent, loaded.sampling.parent_based, loaded.sampling.keep_errors) == (100, True, False)
    assert (loaded.limits.events_per_second, loaded.limits.spans_per_second) == (10000, 5000)
    assert (loaded.limits.cpu_millicores, loaded.limits.on_exceed.value) == (200, "Throttle")
    assert (loaded.redaction.command_line.value, loaded.ttl_seconds, loaded.paused) == ("Drop", None, False)
    request = spec("{requests: [{protocol: HTTP}]}").spec.requests[0]
    assert (request.statement.value, request.tls.value, request.capture_query) == ("Sanitized", "None", False)


def test_full_profile() -> None:
    """Every field of the spec is read, and none of the full profile is left at its default."""
    loaded = load(FULL)
    assert isinstance(loaded, ClusterTraceProfile)
    assert isinstance(loaded.spec, ClusterSpec)
    document = yaml.safe_load(FULL)
    given = document["spec"]
    assert set(given) == {name for name in ClusterSpec.__struct_encode_fields__ if name != "podSelector"}, (
        "podSelector excludes workloadRef"
    )
    defaults = ClusterSpec()
    for name, wire in zip(ClusterSpec.__struct_fields__, ClusterSpec.__struct_encode_fields__, strict=True):
        assert wire == "podSelector" or getattr(loaded.spec, name) != getattr(defaults, name)
    assert loaded.spec.probes[1].mode is Mode.EVENT
    assert loaded.spec.process_selector.runtimes == (Runtime.PYTHON,)


def test_unavailable_names_everything_asked_for() -> None:
    """What later versions bring is refused by its path and value."""
    found = unavailable(load(FULL))
    assert {one.path: one.value for one in found} == {
        "spec.requests[0].tls": '"UserProbes"',
        "spec.code.stacks": '"Native"',
        "spec.code.kernelStack": "true",
    }
    assert all(one.message.startswith("not available in this version") for one in found)


def test_over_grpc_a_certificate_is_always_verified() -> None:
    """The library has no way to leave it out; over HTTP it can be."""
    (found,) = unavailable(
        load(
            "apiVersion: kernelspan.io/v1alpha1\nkind: TraceProfile\nmetadata: {name: a}\nspec: {podSelector: {}, files: {},"
            " export: {otlp: {endpoint: 'https://a:4317', tls: {insecureSkipVerify: true}}}}"
        )
    )
    assert found.path == "spec.export.otlp.tls.insecureSkipVerify"
    assert "protocol: HTTP" in found.message


@pytest.mark.parametrize(
    "text",
    [
        "{files: {}}",
        "{files: {}, requests: [], probes: []}",
        "{files: {}, correlation: {acrossServices: false}}",
        "{files: {}, correlation: {acrossServices: true}}",
        "{files: {}, correlation: {}}",
        "{files: {}, code: {stacks: None, kernelStack: false, stackTrace: Attribute}}",
        "{files: {}, sampling: {keepErrors: false, keepSlowerThanMilliseconds: 0}}",
        "{files: {}, limits: {onExceed: Detach}, processSelector: {runtimes: [Python]}}",
    ],
)
def test_defaults_are_not_asked_for(text: str) -> None:
    """A default that a later version gives a meaning to is not refused now."""
    assert unavailable(spec(text)) == []


def test_every_runtime_may_be_named() -> None:
    """All are walked."""
    names = ", ".join(one.value for one in Runtime)
    assert unavailable(spec(f"{{files: {{}}, processSelector: {{runtimes: [{names}]}}}}")) == []


def test_ignored_standalone() -> None:
    """A run says which of the profile's fields only Kubernetes gives a meaning."""
    assert ignored_standalone(spec("{files: {}, processSelector: {runtimes: [Python]}}")) == []
    assert ignored_standalone(spec("{files: {}, podSelector: {}, nodeSelector: {a: b}}")) == [
        "spec.podSelector",
        "spec.nodeSelector",
    ]
    assert ignored_standalone(load(FULL)) == [
        "spec.workloadRef",
        "spec.namespaceSelector",
        "spec.containerSelector",
        "spec.nodeSelector",
        "spec.export.otlp.headersSecretRef",
        "spec.export.otlp.tls.caSecretRef",
        "spec.export.otlp.tls.certificateSecretRef",
    ]


def test_what_the_api_server_adds_is_taken() -> None:
    """`kubectl get tprof x -o yaml` gives a file that can be run, whatever its status holds."""
    document = yaml.safe_load(HEAD)
    document["metadata"] |= {
        "uid": "1",
        "generation": 3,
        "creationTimestamp": None,
        "managedFields": [{"fieldsV1": {}}],
    }
    document |= {"spec": {"files": {}}, "status": {"of a newer": "operator"}}
    assert validate(document, standalone=True).status is None
    assert load(yaml.safe_dump(document), standalone=True).metadata.name == "x"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("010", "010"), ("y", "y"), ("1_000", "1_000"), ("!!str 5", "5")],
)
def test_text_stays_text(text: str, value: str) -> None:
    """YAML 1.1's sexagesimals, dates, octals and underscores are not numbers here."""
    assert spec(f"{{files: {{}}, resourceAttributes: {{a: {text}}}}}").spec.resource_attributes == {"a": value}


@pytest.mark.parametrize(("text", "value"), [("0x10", 16), ("0o20", 16), ("+16", 16), ("16", 16), ("!!int '16'", 16)])
def test_integers(text: str, value: int) -> None:
    """Decimal, 0x and 0o."""
    assert spec(f"{{files: {{}}, code: {{maxDepth: {text}}}}}").spec.code.max_depth == value


def test_json_bom_and_aliases() -> None:
    """JSON is YAML; a byte order mark and an alias do no harm."""
    text = '{"apiVersion": "kernelspan.io/v1alpha1", "kind": "TraceProfile", "metadata": {"name": "x"}, "spec": {"files": {}}}'
    assert load(text, standalone=True) == load(b"\xef\xbb\xbf" + text.encode(), standalone=True)
    loaded = spec("{files: &a {minDurationMicroseconds: 7}, waits: *a}").spec
    assert loaded.waits is not None
    assert loaded.waits.min_duration_microseconds == 7


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:4317", "[::1]:4317", "http://c", "https://c.example:4318/v1/traces", "10.0.0.1:4317"]
)
def test_endpoints(endpoint: str) -> None:
    """An address with a port, or one with a scheme."""
    loaded = spec(f"{{files: {{}}, export: {{otlp: {{endpoint: '{endpoint}'}}}}}}").spec.export
    assert loaded is not None
    assert loaded.otlp.endpoint == endpoint
