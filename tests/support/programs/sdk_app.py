# SPDX-License-Identifier: Apache-2.0
"""A service by WSGI that carries an OpenTelemetry SDK, which makes spans of what it receives and sends, and injects their names.

It answers `/call`, looks at a file, and asks the next service that X-Route names (`PORT,PORT,…`). Which request it is says X-Hop
(`NUMBER.DEPTH`), also in the SDK's spans. These go to the file SDK_SPANS, a line each.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable
from typing import Any

from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import SpanKind

_PROVIDER = TracerProvider()
_OUT = open(os.environ["SDK_SPANS"], "a", buffering=1)  # noqa: PTH123, SIM115 - for as long as it lives
_PROVIDER.add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(out=_OUT, formatter=lambda span: f"{span.to_json(indent=None)}\n"))
)
TRACER = _PROVIDER.get_tracer(__name__)


def ask(route: str, hop: str) -> None:
    port, _, rest = route.partition(",")
    number, _, depth = hop.partition(".")
    following = f"{number}.{int(depth) + 1}"
    with TRACER.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"hop": following}):
        headers = {"X-Hop": following, "X-Route": rest}
        propagate.inject(headers)
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("GET", "/call", headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    hop, came = environ["HTTP_X_HOP"], propagate.extract({"traceparent": environ.get("HTTP_TRACEPARENT", "")})
    with TRACER.start_as_current_span("GET /call", came, SpanKind.SERVER, {"hop": hop}):
        os.path.exists(f"/kernelspan-truth/{hop}")  # noqa: PTH110 - the plain call is what is traced
        if environ.get("HTTP_X_ROUTE"):
            ask(environ["HTTP_X_ROUTE"], hop)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(hop)))])
    return [hop.encode()]
