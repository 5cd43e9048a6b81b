# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain`: what is known of a running process, or why a pod is, or is not, traced."""

from __future__ import annotations

import click


@click.command("explain")
@click.option("-p", "--pid", type=click.IntRange(min=1), help="A process of this machine.")
@click.option("--pod", metavar="NAMESPACE/NAME", help="A pod of a cluster: why it is, or is not, traced.")
@click.option("--context", metavar="NAME", help="With --pod: the context of the kubeconfig. Default: its current one.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="With --pod: how to reach the cluster. Default: KUBECONFIG, else ~/.kube/config.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output; docs/reference/cli.md has its keys."
)
def command(pid: int | None, pod: str | None, context: str | None, kubeconfig: str | None, as_json: bool) -> int:
    """Say what is known of a process, or why a pod is, or is not, traced.

    --pid: what runs the process (runtime, version, layout), which libraries it uses, and where its threads are now. Needs
    CAP_SYS_PTRACE for processes of other users. The process is not stopped: a thread that runs on shows its outer frames
    only, marked Running. Exits with 3 if its runtime cannot be read, and says why.

    --pod: for each profile that could select the pod, which of its parts say no, or how it stands on the pod's node.
    Reads from the API server with your own rights (get pods, namespaces, nodes; list profiles and the workloads they
    name); what you may not read is said. Exits with 0 whether it is traced or not, with 2 if there is no such pod, with 3
    if the API server cannot be reached.

    \b
    kernelspan explain --pid 4242
    kernelspan explain --pod shop/checkout-7d9f8-x2x1z
    """
    if (pid is None) == (pod is None):
        raise click.UsageError("give --pid or --pod" if pid is None else "give --pid or --pod, not both")
    if pid is not None:
        if context is not None or kubeconfig is not None:
            raise click.UsageError("--context and --kubeconfig go with --pod")
        from kernelspan_agent.cli import explain_pid

        return explain_pid.explain(pid, as_json=as_json)
    assert pod is not None
    from kernelspan_agent.cli import explain_pod

    return explain_pod.explain(pod, context or "", kubeconfig or "", as_json=as_json)
