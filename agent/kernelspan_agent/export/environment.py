# SPDX-License-Identifier: Apache-2.0
"""OTEL_EXPORTER_OTLP_* as the specification reads them, without what it takes to send anything."""

from __future__ import annotations

from collections.abc import Mapping


def names_endpoint(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where traces go."""
    return bool(Variables(environ).get("ENDPOINT")[1])


class Variables:
    """OTEL_EXPORTER_OTLP_TRACES_X before OTEL_EXPORTER_OTLP_X; the name is kept for messages."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, key: str) -> tuple[str, str]:
        """(name of the variable, its value or "")."""
        for name in (f"OTEL_EXPORTER_OTLP_TRACES_{key}", f"OTEL_EXPORTER_OTLP_{key}"):
            if value := self._environ.get(name, "").strip():
                return name, value
        return f"OTEL_EXPORTER_OTLP_{key}", ""
