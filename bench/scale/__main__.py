# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.scale [--nodes N] [--pods N] [--profiles N]`: the operator at scale, on a real API server.

Writes bench/results/scale.json (the newest run of each number of nodes) and docs/reference/scale.md, unless --check or
--output says otherwise. Needs Go for etcd and the API server; no root.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.processes import HERE, BenchError
from bench.scale.measure import Effort
from bench.scale.report import keep, lines, page
from bench.scale.running import run
from bench.scale.seed import say_to
from bench.scale.sizes import Sizes
from tests.support.server import ServerError
from tools.build import build
from tools.errors import ToolError

_BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, help="30 a node, if not said")
    parser.add_argument("--profiles", type=int, default=100)
    parser.add_argument("--changes", type=int, default=20, help="how often each change is made")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="the window without changes")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a line does not hold; writes nothing")
    parser.add_argument("--output", type=Path, help="write here instead of bench/results and docs/reference")
    options = parser.parse_args()
    sizes = Sizes(options.nodes, options.pods or options.nodes * 30, options.profiles)
    if sizes.profiles < 3 or sizes.pods < sizes.nodes:
        parser.error("at least 3 profiles, and a pod a node")
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # before minutes are spent
            parser.error(f"--output: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say = say_to(sys.stderr)
    facts = machine.describe()
    try:
        binaries = build(_BINARIES, say)
        with tempfile.TemporaryDirectory(prefix="kernelspan-scale-", dir="/var/tmp") as folder:
            figures = run(binaries, Path(folder), sizes, Effort(options.changes, options.idle), say)
    except (BenchError, ServerError, ToolError) as error:
        say(str(error))
        return 3
    results = options.output or HERE / "results"
    reference = options.output or HERE.parent / "docs" / "reference"
    result = {"nodes": sizes.nodes, "pods": sizes.pods, "profiles": sizes.profiles, "facts": facts, "figures": figures}
    table = lines(result)
    print("\n".join(str(row) for row in table))
    if not options.check:
        runs = keep(results / "scale.json", result)
        (reference / "scale.md").write_text(page(runs))
    return int(options.check and any(not row.held for row in table))


if __name__ == "__main__":
    sys.exit(main())
