# SPDX-License-Identifier: Apache-2.0
"""One run from nothing to its figures: a control plane without controllers, filled; an operator; agents; the phases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.scale import seed
from bench.scale.api import Api
from bench.scale.measure import Effort, Figures, Measurement, agents_of
from bench.scale.seed import Say
from bench.scale.sizes import Sizes
from bench.scale.store import Store
from bench.scale.watched import USERNAME, calls, usage, writes
from tests.support.cluster import DEFINITIONS, Cluster
from tests.support.operators import Kubernetes, Operator

_START_SECONDS = 600.0  # it is ready once it has read every pod, of a machine that serves all of the benchmark
CRDS = Path(__file__).resolve().parents[2] / "charts/kernelspan/files/crds"


def run(binaries: Mapping[str, Path], folder: Path, sizes: Sizes, effort: Effort, say: Say) -> Figures:
    """The figures. Everything is ended and gone on return. Raises BenchError, and ServerError with a server's log."""
    with Cluster(binaries, folder / "plane", audit_of=[USERNAME], controllers=False) as cluster:
        cluster.kubectl("create", "-f", str(CRDS))
        cluster.establish(*DEFINITIONS)
        return asyncio.run(_measured(cluster, folder, sizes, effort, say))


async def _measured(cluster: Cluster, folder: Path, sizes: Sizes, effort: Effort, say: Say) -> Figures:
    async with Api(cluster.kubeconfig) as api, Store(cluster.etcd_url) as store:
        began = time.monotonic()
        tokens = await seed.fill(api, store, sizes, say)
        say(f"filled in {time.monotonic() - began:.0f} s")
        with ExitStack() as stack:
            operator = Operator(
                Kubernetes(cluster),
                folder / "operator",
                options=("--log-level", "warning"),
                start_seconds=_START_SECONDS,
            )
            began = time.monotonic()
            await asyncio.to_thread(stack.enter_context, operator)
            now = usage(operator)
            ready = {
                "ready after": round(time.monotonic() - began, 3),
                "operator_cpu_seconds": round(now.cpu_seconds, 2),
                "operator_resident_mb": round(now.resident_mb, 1),
                "operator_most_resident_mb": round(now.most_resident_mb, 1),
            }
            say(f"operator: {ready}")
            async with agents_of(operator, tokens) as fleets:
                measurement = Measurement(cluster, api, operator, sizes, effort, say)
                figures = await measurement.run(fleets)
            made = calls(cluster)
            return {"start": ready, **figures, "api_calls": dict(sorted(made.items())), "api_writes": writes(made)}
