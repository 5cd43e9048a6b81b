# SPDX-License-Identifier: Apache-2.0
"""The agent of a measurement: the `kernelspan` command itself, which besides says on a descriptor when it traces.

BENCH_MODE=userprobes makes the same command attach to libc's functions instead of the kernel's (userprobes.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kernelspan_agent import app, cli


def _announce(descriptor: int) -> None:
    original = app.App.run

    def run(self: app.App, until: Callable[[], bool]) -> None:
        said = False

        def asked() -> bool:
            nonlocal said
            if not said and self.processes.alive() and not self.processes.has_pending:
                said = True
                os.write(descriptor, b"r")
                os.close(descriptor)
            return until()

        original(self, asked)

    app.App.run = run  # type: ignore[method-assign]


def main() -> None:
    """As the console script, with the announcement."""
    _announce(int(os.environ["BENCH_READY_FD"]))
    if os.environ.get("BENCH_MODE") == "userprobes":
        from bench import userprobes  # noqa: PLC0415 - only this variant

        userprobes.install()
    cli.main()


if __name__ == "__main__":
    main()
