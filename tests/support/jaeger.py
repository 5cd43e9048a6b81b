# SPDX-License-Identifier: Apache-2.0
"""The real Jaeger v2, in memory: OTLP/gRPC in, its HTTP API (api_v3, OTLP/JSON) out.

Spans are stored in the receiver's own call: what was acknowledged can be read back. On the way Jaeger's own model turns
array attributes into JSON text, loses span flags and gives every link `opentracing.ref_type` as its only attribute.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.support.otlp_json import ReceivedSpan, spans_of
from tests.support.ports import PortReservation
from tests.support.server import ServerError, ServerProcess, answers_ok, http_get

WAIT_SECONDS = 20.0
_POLL_SECONDS = 0.05
_MAX_TRACES = 100_000


class JaegerApi:
    """What a Jaeger has, asked by its HTTP API: `fetch` takes a path and gives an answer's status and body."""

    def __init__(self, fetch: Callable[[str], tuple[int, bytes]]) -> None:
        self._fetch = fetch

    def services(self) -> frozenset[str]:
        """The names of all services it has spans of."""
        return frozenset(self._get("/api/v3/services").get("services", []))

    def operations(self, service: str) -> frozenset[str]:
        """The span names of one service."""
        answer = self._get("/api/v3/operations", {"service": service})
        return frozenset(operation["name"] for operation in answer.get("operations", []))

    def traces(
        self, service: str, limit: int = 1000, operation: str = "", since: str = "1970-01-01T00:00:00Z"
    ) -> dict[str, list[ReceivedSpan]]:
        """Trace id to spans, for every trace since then that has a span of the service (and of that name, if given)."""
        query = {
            "query.service_name": service,
            "query.start_time_min": since,
            "query.start_time_max": datetime.now(UTC).replace(year=2200, month=1, day=1).isoformat(),
            "query.num_traces": str(limit),
        }
        if operation:
            query["query.operation_name"] = operation
        found: dict[str, list[ReceivedSpan]] = {}
        for span in self._spans("/api/v3/traces", query):
            found.setdefault(span.trace_id, []).append(span)
        return found

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace, none if Jaeger does not know it."""
        return self._spans(f"/api/v3/traces/{trace_id}", {})

    def wait_for_trace(self, trace_id: str, count: int, timeout_seconds: float = WAIT_SECONDS) -> list[ReceivedSpan]:
        """The trace as soon as it has `count` spans or more. Raises ServerError with what was there instead."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            spans = self.trace(trace_id)
            if len(spans) >= count:
                return spans
            if time.monotonic() >= deadline:
                raise ServerError(
                    f"trace {trace_id}: {len(spans)} of {count} spans after {timeout_seconds:g} s\n{self.log_tail()}"
                )
            time.sleep(_POLL_SECONDS)

    def dependencies(self) -> dict[tuple[str, str], int]:
        """Who called whom how often, as it draws it, of all that it has."""
        year_2200 = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)
        answer = self._get("/api/dependencies", {"endTs": str(year_2200), "lookback": str(year_2200)})
        return {(one["parent"], one["child"]): one["callCount"] for one in answer["data"]}

    def log_tail(self) -> str:
        """What is known of why an answer is not as it should be."""
        return ""

    def _spans(self, path: str, query: Mapping[str, str]) -> list[ReceivedSpan]:
        answer = self._get(path, query, absent={"result": {}})
        return list(spans_of(answer["result"]))

    def _get(
        self, path: str, query: Mapping[str, str] | None = None, absent: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        status, body = self._fetch(f"{path}?{urlencode(query)}" if query else path)
        if status == HTTPStatus.NOT_FOUND and absent is not None:
            return absent
        if status != HTTPStatus.OK:
            raise ServerError(f"GET {path} {dict(query or {})}: {status} {body[:2000]!r}\n{self.log_tail()}")
        answer: dict[str, Any] = json.loads(body)
        return answer


class Jaeger(JaegerApi):
    """A running Jaeger on free loopback ports; use with `with`. `grpc_endpoint` is host:port, `url` that of its API."""

    def __init__(self, binary: Path, folder: Path) -> None:
        """Configuration and log go into the folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = PortReservation(4)
        otlp, self._http_port, _, self._health_port = self._ports.ports
        super().__init__(lambda path: http_get(self._http_port, path))
        self.grpc_endpoint = f"127.0.0.1:{otlp}"
        self.url = f"http://127.0.0.1:{self._http_port}"
        config = folder / "jaeger.yaml"
        config.write_text(yaml.safe_dump(_config(self._ports.ports)), "utf-8")
        self._server = ServerProcess(
            "jaeger",
            [binary, "--config", config],
            folder / "jaeger.log",
            self._is_healthy,
            # Its query server sends its own traces to localhost:4317, whoever listens there.
            {"OTEL_TRACES_SAMPLER": "always_off"},
        )

    @property
    def pid(self) -> int:
        """Jaeger's process id. Raises ServerError while it is down."""
        return self._server.pid

    def start(self) -> None:
        """Starts it. Raises ServerError with its log if it does not become healthy."""
        self._server.start()

    def close(self) -> None:
        """Ends it and gives its ports back; what it stored is gone."""
        self._server.stop()
        self._ports.close()

    def log_tail(self) -> str:
        """The end of Jaeger's log."""
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
        return answers_ok(self._health_port, "/status")


def _config(ports: tuple[int, ...]) -> dict[str, Any]:
    otlp, http, grpc, health = (f"127.0.0.1:{port}" for port in ports)
    return {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": otlp}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": _MAX_TRACES}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": http},
                "grpc": {"endpoint": grpc, "transport": "tcp"},
            },
            "healthcheckv2": {"use_v2": True, "http": {"endpoint": health}},
        },
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
    }
