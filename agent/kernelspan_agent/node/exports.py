# SPDX-License-Identifier: Apache-2.0
"""Where each profile's spans go: its own endpoint with the Secrets that came beside the plan, else the agent's.

What is a file for TLS is one while an exporter is opened, in the folder for Secrets, which is memory and no disk.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.base import Exporter
from kernelspan_agent.export.environment import Variables, names_endpoint
from kernelspan_agent.export.otlp import open_output
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import limits_from
from kernelspan_agent.export.settings import OtlpSettings, settings_from
from kernelspan_api.handling import Otlp

if TYPE_CHECKING:
    from kernelspan_api.control.control_pb2 import ExportSecret
    from kernelspan_api.profile import TraceProfile

CLOSE_SECONDS = 10.0
_FILES = (("ca", "CERTIFICATE"), ("certificate", "CLIENT_CERTIFICATE"), ("key", "CLIENT_KEY"))
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class Exports:
    """Opens exporters. `endpoint`: the agent's own, before what the environment says."""

    endpoint: str
    environ: Mapping[str, str]
    folder: Path
    _closing: list[threading.Thread] = field(default_factory=list)

    def open(self, uid: str, profile: TraceProfile, secret: ExportSecret | None) -> Exporter:
        """One profile's exporter. Raises UsageError: there is no endpoint, or it cannot be used so."""
        limits = limits_from(self.environ)
        with contextlib.ExitStack() as files:  # of TLS, which are read here and never again
            settings = self._settings(uid, profile, secret, files)
            return Pipeline([open_output(settings, limits)], limits)

    def _settings(
        self, uid: str, profile: TraceProfile, secret: ExportSecret | None, files: contextlib.ExitStack
    ) -> OtlpSettings:
        otlp = profile.spec.export.otlp if profile.spec.export else Otlp()
        if otlp.endpoint:
            # What the environment says of the agent's own endpoint, headers and certificates is not for another's.
            said = {name: value for name, value in self.environ.items() if not name.startswith("OTEL_EXPORTER_OTLP")}
            said["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc" if otlp.protocol.value == "GRPC" else "http/protobuf"
            said["OTEL_EXPORTER_OTLP_COMPRESSION"] = otlp.compression.value.lower()
        elif self.endpoint or names_endpoint(self.environ):
            said = dict(self.environ)
        else:
            raise UsageError(
                "there is no OTLP endpoint",
                hint="set otlp.endpoint in the chart, or the profile's export.otlp.endpoint",
            )
        if secret is not None:
            said |= self._variables(uid, secret, Variables(said).get("HEADERS")[1], files)
        return settings_from(said, otlp.endpoint or self.endpoint, otlp.tls)

    def _variables(self, uid: str, secret: ExportSecret, headers: str, files: contextlib.ExitStack) -> dict[str, str]:
        """Those for traces, which go before all others. `headers`: what is sent besides."""
        quoted = (
            f"{urllib.parse.quote(name, safe='')}={urllib.parse.quote(value, safe='')}"
            for name, value in sorted(secret.headers.items())
        )
        found = {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": ",".join([headers, *quoted])}
        contents = [(variable, getattr(secret, name)) for name, variable in _FILES if getattr(secret, name)]
        if contents:
            folder = self._folder(uid, files)
            for variable, content in contents:
                path = folder / variable.lower()
                path.write_bytes(content)
                found[f"OTEL_EXPORTER_OTLP_TRACES_{variable}"] = str(path)
        return found

    def _folder(self, uid: str, files: contextlib.ExitStack) -> Path:
        """For the agent alone, and gone with `files`."""
        if not _UID.fullmatch(uid):
            raise UsageError(f"a profile's uid is {uid[:64]!r}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Path(files.enter_context(tempfile.TemporaryDirectory(prefix=f"{uid}.", dir=self.folder)))
        except OSError as error:
            raise UsageError(
                f"{self.folder}: {error.strerror}", hint="the agent's --secrets must be a folder it may write"
            ) from error

    def close_later(self, exporter: Exporter) -> None:
        """Sends what is queued and closes, beside everything else: a collector may be slow."""
        self._closing[:] = [each for each in self._closing if each.is_alive()]
        thread = threading.Thread(target=exporter.close, args=(CLOSE_SECONDS,), name="export-close", daemon=True)
        self._closing.append(thread)
        thread.start()

    def wait(self) -> None:
        """Until all of them have closed."""
        for thread in self._closing:
            thread.join()
