# SPDX-License-Identifier: Apache-2.0
"""`kernelspan-operator`: the command line of the operator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from kernelspan_operator.errors import ConfigurationError, OperatorError
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.models.spans import Spans, no_spans
from kernelspan_operator.models.watched import SILENCE_SECONDS


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kernelspan")
@click.option("--kubeconfig", metavar="FILE", help="Its current context, instead of the pod's service account.")
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    show_envvar=True,
    default="kernelspan",
    show_default=True,
    help="The operator's own: the authority is kept and published there.",
)
@click.option("--listen", metavar="ADDRESS", default="[::]:8443", show_default=True, help="For the agents' streams.")
@click.option(
    "--server-name", "server_names", multiple=True, metavar="NAME", help="What agents dial it by. May be repeated."
)
@click.option("--agent-service-account", default="kernelspan-agent", show_default=True, help="Of the same namespace.")
@click.option("--authority", default="kernelspan-ca", show_default=True, help="Name of its Secret and ConfigMap.")
@click.option("--policy", "policy_path", metavar="FILE", help="What profiles may use, as YAML or JSON.")
@click.option("--listen-http", metavar="ADDRESS", default="", help="Serve /metrics, /healthz, /readyz at host:port.")
@click.option("--self-traces", is_flag=True, help="Send the operator's own traces by OTLP/gRPC (OTEL_EXPORTER_OTLP_*).")
@click.option(
    "--watch-silence",
    type=click.FloatRange(1.0),
    default=SILENCE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="A watch that says nothing for so long is given up; the API server says something once a minute.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning"), case_sensitive=False),
    default="info",
    show_default=True,
)
def command(**options: Any) -> None:
    """Gives each node's agent its plan, made of the TraceProfiles of the cluster, and writes their status."""
    import kopf

    from kernelspan_operator import app
    from kernelspan_operator.services.kube import from_kubeconfig, in_cluster
    from kernelspan_operator.services.system import Settings
    from kernelspan_operator.services.watch import Timing

    kopf.configure(
        debug=options["log_level"] == "debug",
        quiet=options["log_level"] == "warning",
        log_format=kopf.LogFormat.FULL if sys.stderr.isatty() else kopf.LogFormat.JSON,
    )
    namespace = options["namespace"]
    settings = Settings(
        namespace=namespace,
        listen=options["listen"],
        server_names=options["server_names"] or default_names(namespace),
        agent_service_account=f"{namespace}:{options['agent_service_account']}",
        authority=options["authority"],
        policy=read_policy(options["policy_path"]) if options["policy_path"] else Policy(),
    )
    path = options["kubeconfig"]
    connection = from_kubeconfig(path) if path else in_cluster(os.environ)
    raise_open_files()
    timing = Timing(silence=options["watch_silence"])
    spans, stop_spans = self_traces() if options["self_traces"] else (no_spans, lambda: None)
    try:
        asyncio.run(app.run(connection, settings, listen_http=options["listen_http"], spans=spans, timing=timing))
    finally:
        stop_spans()


def raise_open_files() -> None:
    """As many as the system allows: each agent is a connection, and so is each stranger at the port."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def self_traces() -> tuple[Spans, Callable[[], None]]:
    """The operator's own traces, and what ends them. Raises ConfigurationError where their libraries are missing."""
    try:
        from kernelspan_operator.services import telemetry
    except ImportError as error:
        raise ConfigurationError(
            f"--self-traces: {error}", hint="pip install 'kernelspan[operator,operator-telemetry]'"
        ) from error
    return telemetry.start(os.environ)


def default_names(namespace: str) -> tuple[str, ...]:
    """The operator's Service as a cluster's DNS has it."""
    service = f"kernelspan-operator.{namespace}.svc"
    return ("localhost", "kernelspan-operator", f"kernelspan-operator.{namespace}", service, f"{service}.cluster.local")


def read_policy(path: str) -> Policy:
    """Raises ConfigurationError."""
    try:
        return msgspec.yaml.decode(Path(path).read_bytes() or b"{}", type=Policy)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path}: {error}", hint="see `policy` in the chart's values") from error


def main() -> None:
    """The console script."""
    try:
        command(prog_name="kernelspan-operator")
    except OperatorError as error:
        click.echo(f"kernelspan-operator: {error.reason}: {error}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(1)
