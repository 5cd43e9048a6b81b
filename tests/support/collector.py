# SPDX-License-Identifier: Apache-2.0
"""The real OpenTelemetry collector, with what it received as plain spans.

A request that the collector has acknowledged is in its file already: the exporter writes unbuffered and in the
receiver's own call. So nothing acknowledged is missing after `kill`, and a test need not sleep.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.otlp_json import Labels, ReceivedSpan, metrics_of, spans_of
from tests.support.ports import PortReservation
from tests.support.server import ServerError, ServerProcess, answers_ok, http_get
from tests.support.tls import TlsFiles

WAIT_SECONDS = 20.0
_POLL_SECONDS = 0.02
_MAX_REQUEST_MIB = 64
_UNBUFFERED_FILE_MIB = 1 << 20  # the exporter does not buffer a file that rotates; this one never gets so far


@dataclass(frozen=True, slots=True)
class CollectorOptions:
    """How a collector differs from the plain one that keeps every span.

    `tls`: serve with this certificate; `client_ca`: and demand a client certificate of this authority.
    `keep_percent`: of traces, into the file; 0 writes nothing (for load: `accepted_spans` counts).
    `forward_to`: host:port of an OTLP/gRPC server that gets the same, before the sender's answer.
    `debug`: every span in full in the log.
    `counts`: its connectors count requests and draw who asks whom (`metrics`).
    """

    tls: TlsFiles | None = None
    client_ca: Path | None = None
    keep_percent: float = 100.0
    forward_to: str = ""
    debug: bool = False
    counts: bool = False


class Collector:
    """A running collector on free loopback ports; use with `with`. `grpc_endpoint` is host:port, `http_endpoint` a URL."""

    def __init__(self, binary: Path, folder: Path, options: CollectorOptions | None = None) -> None:
        """Configuration, log and received spans go into the folder, which is made."""
        self.options = options or CollectorOptions()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ports = PortReservation(4)
        grpc, http, self._health_port, self._metrics_port = self._ports.ports
        self.grpc_endpoint = f"127.0.0.1:{grpc}"
        self.http_endpoint = f"{'https' if self.options.tls else 'http'}://127.0.0.1:{http}"
        self._starts = 0
        self._config = folder / "otelcol.yaml"
        self._received = _Received(folder)
        self._server = ServerProcess(
            "otelcol", [binary, "--config", self._config], folder / "otelcol.log", self._is_healthy
        )

    @property
    def pid(self) -> int:
        """The collector's process id. Raises ServerError while it is down."""
        return self._server.pid

    def start(self) -> None:
        """Starts it, on the same ports as before. Raises ServerError with its log if it does not become healthy."""
        self._starts += 1
        # A new file each time: what a kill cut off stays the end of its own file.
        output = self._folder / f"spans-{self._starts:04}.jsonl"
        config = _config(self.options, self._ports.ports, output)
        if self.options.counts:
            _add_counts(config, self._folder / f"metrics-{self._starts:04}.jsonl")
        self._config.write_text(yaml.safe_dump(config), "utf-8")
        self._server.start()

    def stop(self) -> None:
        """Ends it in order; ports and received spans stay."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL; ports and received spans stay. Connections are refused until `restart`."""
        self._server.kill()

    def restart(self) -> None:
        """Starts it again on the same ports, ending it in order first if it runs."""
        self._server.stop()
        self.start()

    def close(self) -> None:
        """Ends it and gives its ports back."""
        self._server.stop()
        self._ports.close()

    def send(self, message: str) -> None:
        """One ExportTraceServiceRequest, as the file exporter writes it. Raises OSError: it was not taken."""
        host, _, port = self.http_endpoint.partition("//")[2].partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", message, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise OSError(f"{answer.status}: {answer.read()[:1000]!r}")

    def requests(self) -> list[dict[str, Any]]:
        """Every request kept so far, over all starts, as parsed OTLP/JSON."""
        return self._received.read()

    def spans(self) -> list[ReceivedSpan]:
        """Every span kept so far, over all starts, in the order of arrival."""
        return [span for request in self._received.read() for span in spans_of(request)]

    def metrics(self) -> dict[str, dict[Labels, float]]:
        """What its connectors have counted since this start, as last told: metric, attributes, sum or number of observations."""
        found: dict[str, dict[Labels, float]] = {}
        told = self._folder / f"metrics-{self._starts:04}.jsonl"
        for line in told.read_text().splitlines() if told.exists() else ():
            for metric in metrics_of(json.loads(line)):
                found.setdefault(metric.name, {})[metric.labels] = metric.value
        return found

    def wait_for_spans(
        self,
        count: int,
        where: Callable[[ReceivedSpan], bool] = lambda _: True,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> list[ReceivedSpan]:
        """The spans that match, as soon as there are `count` or more. Raises ServerError with what was seen instead."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            everything = self.spans()
            found = [span for span in everything if where(span)]
            if len(found) >= count:
                return found
            if time.monotonic() >= deadline:
                names = sorted({span.name for span in everything})[:20]
                raise ServerError(
                    f"{len(found)} of {count} spans after {timeout_seconds:g} s; {len(everything)} received in all, "
                    f"named {names}\n{self.log_tail()}"
                )
            time.sleep(_POLL_SECONDS)

    def accepted_spans(self) -> int:
        """How many spans this start of the collector has accepted, by its own counter. Raises OSError while down."""
        return self._counter("otelcol_receiver_accepted_spans")

    def refused_spans(self) -> int:
        """How many spans this start of the collector has refused, by its own counter. Raises OSError while down."""
        return self._counter("otelcol_receiver_refused_spans")

    def log_tail(self) -> str:
        """The end of the collector's log."""
        return self._server.log_tail()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_healthy(self) -> bool:
        return answers_ok(self._health_port, "/")

    def _counter(self, name: str) -> int:
        lines = http_get(self._metrics_port, "/metrics")[1].decode("utf-8").splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.partition("{")[0].removesuffix("_total") == name]
        return sum(int(float(value)) for value in values)


class _Received:
    """The files of one collector, each read once: only what was added since the last call is parsed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._requests: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        for path in sorted(self._folder.glob("spans-*.jsonl")):
            with path.open("rb") as source:
                source.seek(self._offsets.get(path, 0))
                for line in source:
                    if not line.endswith(b"\n"):  # not yet whole
                        break
                    self._requests.append(json.loads(line))
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
        return list(self._requests)


def _config(options: CollectorOptions, ports: tuple[int, ...], output: Path) -> dict[str, Any]:
    grpc, http, health, metrics = (f"127.0.0.1:{port}" for port in ports)
    tls = _server_tls(options)
    exporters: dict[str, Any] = {"nop": {}}
    processors: dict[str, Any] = {}
    if options.keep_percent > 0:
        exporters["file"] = {"path": str(output), "rotation": {"max_megabytes": _UNBUFFERED_FILE_MIB}}
    if 0 < options.keep_percent < 100:
        processors["probabilistic_sampler"] = {"sampling_percentage": options.keep_percent}
    if options.debug:
        exporters["debug"] = {"verbosity": "detailed"}
    if options.forward_to:
        exporters["otlp_grpc"] = {
            "endpoint": options.forward_to,
            "compression": "none",
            "tls": {"insecure": True},
            "sending_queue": {"enabled": False},
            "retry_on_failure": {"enabled": False},
        }
    return {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": grpc, "max_recv_msg_size_mib": _MAX_REQUEST_MIB, **tls},
                    "http": {"endpoint": http, **tls},
                }
            }
        },
        "processors": processors,
        "exporters": exporters,
        "extensions": {"health_check": {"endpoint": health}},
        "service": {
            "extensions": ["health_check"],
            "pipelines": {
                "traces": {"receivers": ["otlp"], "processors": list(processors), "exporters": list(exporters)}
            },
            "telemetry": {"metrics": _own_metrics(metrics)},
        },
    }


def _add_counts(config: dict[str, Any], output: Path) -> None:
    """As a user would have them for OpenTelemetry's stable names; told each second."""
    connectors = {
        "span_metrics": {
            "metrics_flush_interval": "1s",
            "dimensions": [{"name": "http.route"}, {"name": "http.response.status_code"}, {"name": "db.system.name"}],
        },
        "service_graph": {
            "metrics_flush_interval": "1s",
            "store": {"ttl": "2s", "max_items": 10_000},
            "store_expiration_loop": "1s",
            "database_name_attributes": ["db.system.name"],
            "virtual_node_peer_attributes": ["messaging.system", "server.address"],
        },
    }
    config["connectors"] = connectors
    config["exporters"]["file/metrics"] = {"path": str(output), "flush_interval": "100ms"}
    pipelines = config["service"]["pipelines"]
    pipelines["traces"]["exporters"] += list(connectors)
    pipelines["metrics"] = {"receivers": list(connectors), "exporters": ["file/metrics"]}


def _server_tls(options: CollectorOptions) -> dict[str, Any]:
    if options.tls is None:
        if options.client_ca is not None:
            raise ValueError("client_ca needs tls: only a TLS server can ask for a client certificate")
        return {}
    tls = {"cert_file": str(options.tls.server_certificate), "key_file": str(options.tls.server_key)}
    return {"tls": tls | ({"client_ca_file": str(options.client_ca)} if options.client_ca else {})}


def _own_metrics(address: str) -> dict[str, Any]:
    host, _, port = address.partition(":")
    return {"level": "basic", "readers": [{"pull": {"exporter": {"prometheus": {"host": host, "port": int(port)}}}}]}
