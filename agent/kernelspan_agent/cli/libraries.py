# SPDX-License-Identifier: Apache-2.0
"""`kernelspan libraries`: which libraries a process has loaded, and what they do while it is traced for some seconds."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.errors import UsageError

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process
    from kernelspan_api.profile import TraceProfile

SECONDS = 10.0
CANNOT = 3
# All of it. Spans are made for nobody, so functions need not be inferred.
PROFILE = """
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: libraries}
spec:
  podSelector: {}
  files: {}
  network: {}
  processes: {}
  waits: {minDurationMicroseconds: 1000}
  code: {functions: false}
  limits: {eventsPerSecond: 20000, spansPerSecond: 20000}
"""


@click.command("libraries")
@click.option("-p", "--pid", type=click.IntRange(min=1), help="A process of this machine, with its children.")
@click.option("--pod", metavar="NAMESPACE/NAME", help="The processes of a pod on this node.")
@click.option("--context", metavar="NAME", help="With --pod: the context of the kubeconfig. Default: its current one.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="With --pod: how to reach the cluster. Default: KUBECONFIG, else ~/.kube/config.",
)
@click.option(
    "-f",
    "--file",
    "profile_path",
    metavar="PROFILE",
    help="A TraceProfile that says which operations count. Default: all, of waits those from 1 ms.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0),
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Watch so long; 0: only say what is loaded.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output; docs/reference/cli.md has its keys."
)
def command(profile_path: str | None, duration: float, as_json: bool, **whom: Any) -> int:
    """Say which libraries a process has loaded, and which of them do something.

    Loaded is what the runtime's list of modules has (Python's sys.modules, PHP's included files of the request at hand),
    what is mapped, and what stands in a stack, each asked before and after. What they do is traced meanwhile; nothing is
    exported. Ctrl-C ends it early, with the result. A library that does nothing in that time may do something later.

    --pod asks the API server for the pod, with your own rights (get pods), and looks for its processes here, by their
    cgroup: run it on the pod's node, in the host's PID namespace.

    Exits with 2 if there is no such process or pod, or the pod is on another node; with 3 if no process's runtime can be
    read.

    \b
    kernelspan libraries --pid 4242 --duration 60
    kernelspan libraries --pod shop/checkout-7d9f8-x2x1z --json
    """
    pid, pod = whom["pid"], whom["pod"]
    if (pid is None) == (pod is None):
        raise click.UsageError("give --pid or --pod" if pid is None else "give --pid or --pod, not both")
    if pid is not None and (whom["context"] is not None or whom["kubeconfig"] is not None):
        raise click.UsageError("--context and --kubeconfig go with --pod")
    profile = _profile(profile_path)
    if duration:
        from kernelspan_agent.guard import capabilities

        capabilities.require()
    processes = _of_pid(pid) if pid is not None else _of_pod(pod, whom["context"] or "", whom["kubeconfig"] or "")
    return _show(processes, profile, duration, as_json=as_json)


def _profile(path: str | None) -> TraceProfile:
    if path is not None:
        from kernelspan_agent.cli.profiles import read_profile

        return read_profile(path)[0]
    from kernelspan_api.profile import load

    return load(PROFILE.encode(), standalone=True)


def _of_pid(pid: int) -> list[Process]:
    from kernelspan_agent.targets import select

    return [select.by_pid(pid), *select.descendants([pid])]


def _of_pod(pod: str, context: str, path: str) -> list[Process]:
    """The pod's processes on this machine. Raises UsageError where it has none here."""
    from kernelspan_agent.cli.cluster import kubeconfig
    from kernelspan_agent.cli.cluster.api import Api
    from kernelspan_agent.cli.cluster.facts import read_pod, split
    from kernelspan_agent.targets.pods import processes_of
    from kernelspan_api.selection import has_ended, static_hash

    namespace, name = split(pod)
    api = Api(kubeconfig.read(kubeconfig.find(path, os.environ), context, os.environ))
    found = read_pod(api, namespace, name)
    if has_ended(found):
        raise UsageError(f"pod {pod} has ended ({found.status.phase})", hint="kubectl get pods shows its state")
    processes = processes_of(static_hash(found.metadata) or found.metadata.uid)
    if not processes:
        node = found.spec.node_name
        where = f"it is on node {node}" if node else "it is on no node yet"
        raise UsageError(
            f"pod {pod} has no process on this machine: {where}",
            reason="NoMatchingProcesses",
            hint=f"run it on {node}, in the host's PID namespace: the agent's pod there has it" if node else "",
        )
    return processes


def _show(processes: list[Process], profile: TraceProfile, duration: float, *, as_json: bool) -> int:
    from kernelspan_agent.cli.loaded import Loaded, as_object, page
    from kernelspan_agent.cli.watching import watch

    loaded = Loaded()
    loaded.look(processes)
    done = watch(processes, profile, duration) if duration else None
    if done is not None:
        loaded.look(processes, again=True)
    found = as_object(loaded, done)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(page(found)))
    seen = found["processes"]
    return CANNOT if seen and all(each["unsupported"] for each in seen) else 0
