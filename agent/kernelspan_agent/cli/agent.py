# SPDX-License-Identifier: Apache-2.0
"""`kernelspan agent`: the agent of a Kubernetes node, which does what the operator's plans say."""

from __future__ import annotations

import os
import platform
import resource
import signal
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.ring import ring_option
from kernelspan_agent.errors import UsageError
from kernelspan_agent.guard import capabilities
from kernelspan_agent.probes.children import AT_ONCE_VARIABLE
from kernelspan_agent.ring.size import with_ring

if TYPE_CHECKING:
    from kernelspan_agent.control.peering import Peering
    from kernelspan_agent.control.stream import Stream
    from kernelspan_agent.node.follow import Follower

EXPORT_TIMEOUT_SECONDS = 10.0


@click.command("agent")
@click.option(
    "--operator",
    "operator_address",
    envvar="KERNELSPAN_OPERATOR",
    show_envvar=True,
    required=True,
    metavar="HOST:PORT",
    help="The operator's Service.",
)
@click.option(
    "--node",
    envvar="NODE_NAME",
    show_envvar=True,
    required=True,
    metavar="NAME",
    help="This node's name in Kubernetes.",
)
@click.option(
    "--token",
    "token_path",
    default="/var/run/secrets/kernelspan/token",
    show_default=True,
    metavar="FILE",
    help="The projected service-account token for the operator.",
)
@click.option(
    "--ca",
    "ca_path",
    default="/etc/kernelspan/ca/ca.crt",
    show_default=True,
    metavar="FILE",
    help="Whom the operator's certificate must be of.",
)
@click.option(
    "--state",
    default="/var/lib/kernelspan",
    show_default=True,
    metavar="DIR",
    help="Where the plan and compiled programs are kept over a restart.",
)
@click.option(
    "--secrets",
    default="/run/kernelspan",
    show_default=True,
    metavar="DIR",
    help="Where exporters' Secrets are kept: memory, no disk.",
)
@click.option(
    "--otlp", "endpoint", metavar="ENDPOINT", help="host:port or http(s)://…; else OTEL_EXPORTER_OTLP_* say where."
)
@click.option(
    "--peers",
    "endpoint_for_peers",
    envvar="KERNELSPAN_PEERS",
    show_envvar=True,
    metavar="ADDRESS:PORT",
    help="Join requests across nodes: where other nodes' agents find this one, an address of this pod's.",
)
@click.option("--listen", metavar="ADDRESS", help="Serve /metrics, /healthz and /readyz at host:port.")
@ring_option
@click.option(
    "--self-traces",
    is_flag=True,
    envvar="KERNELSPAN_SELF_TRACES",
    show_envvar=True,
    help="Also send the agent's own traces to the OTLP endpoint.",
)
def command(**options: Any) -> int:
    """Follow the operator's plans for this node, until SIGTERM.

    An agent that cannot reach its operator goes on with its last plan, also after a restart.

    \b
    kernelspan agent --operator kernelspan-operator.kernelspan.svc:8443 --node $NODE_NAME --otlp collector:4317
    """
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _frame: stopped.append(got))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # some for each profile, some for each process that starts
    environ = with_ring(os.environ, options["ring_mebibytes"])
    environ.setdefault("KERNELSPAN_CACHE", str(Path(options["state"]) / "objects"))
    environ.setdefault(AT_ONCE_VARIABLE, "1")
    with ExitStack() as stack:
        if options["self_traces"]:
            from kernelspan_agent.cli.outputs import trace_self

            stop = trace_self(options, environ)
            stack.callback(lambda: stop(EXPORT_TIMEOUT_SECONDS))
        stream, follower, peering = _make(options, environ)
        if options["listen"]:
            from kernelspan_agent.control.health import serve

            say = lambda text: click.echo(f"kernelspan: {text}", err=True)  # noqa: E731
            stack.callback(serve(options["listen"], follower, say))
        if peering is not None:
            peering.start()
            stack.callback(peering.close)
        stream.start()
        stack.callback(stream.close)
        follower.run(lambda: bool(stopped))
    # All has been sent and given back. Python would wait for threads that compile, and gRPC's may wait for each other.
    os._exit(0)


def _make(options: dict[str, Any], environ: dict[str, str]) -> tuple[Stream, Follower, Peering | None]:
    from kernelspan_agent.cli.outputs import resource_settings
    from kernelspan_agent.control.kept import KeptPlan
    from kernelspan_agent.control.peering import Peering, check_endpoint
    from kernelspan_agent.control.stream import Operator, Stream
    from kernelspan_agent.node.desired import Desired
    from kernelspan_agent.node.exports import Exports
    from kernelspan_agent.node.follow import Follower
    from kernelspan_agent.probes.mechanisms import MECHANISMS
    from kernelspan_agent.resolve.resource import ResourceSettings
    from kernelspan_api.control.control_pb2 import Hello

    token, ca = Path(options["token_path"]), Path(options["ca_path"])
    try:
        kept = KeptPlan(Path(options["state"]), Path(options["secrets"]))
    except OSError as error:
        raise UsageError(
            f"{error.filename}: {error.strerror}", hint="--state and --secrets must be writable"
        ) from error
    hello = Hello(
        node=options["node"],
        agent_version=metadata.version("kernelspan"),
        kernel=platform.release(),
        architecture=platform.machine(),
        capabilities=sorted(capabilities.held()),
        mechanisms=[each.name for each in MECHANISMS],
    )
    endpoint = options["endpoint_for_peers"]
    peering = Peering(options["node"], check_endpoint(endpoint), ca.read_bytes) if endpoint else None
    operator = Operator(options["operator_address"], ca.read_bytes, token.read_text)
    stream = Stream(operator, hello, kept, beside=peering.meeting.on if peering else None)

    def resource_of(desired: Desired) -> ResourceSettings:
        assert desired.profile is not None
        return resource_settings(desired.profile, environ, host_name=options["node"])

    exports = Exports(options["endpoint"] or "", environ, Path(options["secrets"]))
    return stream, Follower(stream, exports, environ, resource_of, peering), peering
