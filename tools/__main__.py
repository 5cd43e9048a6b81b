# SPDX-License-Identifier: Apache-2.0
"""`python3 -m tools [NAME ...]`: builds what is missing, prints `name<TAB>path` a line; progress goes to stderr.

Exit codes: 0 fine, 1 something could not be built, 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys

from tools.build import build, update
from tools.errors import ToolError
from tools.families import load_families


def _say(text: str) -> None:
    print(f"tools: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tools", description="Build the Go programs that tests run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="families or binaries; none means all")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--list", action="store_true", help="print `family<TAB>binary` a line, build nothing")
    choice.add_argument("--update", action="store_true", help="renew go.mod and go.sum of the named families")
    options = parser.parse_args(arguments)
    if options.update and not options.names:
        parser.error("--update needs names")
    try:
        if options.list:
            print("\n".join(f"{family.name}\t{b.name}" for family in load_families() for b in family.binaries))
        elif options.update:
            for name in options.names:
                update(name, _say)
        else:
            print("\n".join(f"{name}\t{path}" for name, path in build(tuple(options.names), _say).items()))
    except ToolError as error:
        _say(str(error))
        if error.hint:
            _say(error.hint)
        return 1
    except KeyboardInterrupt:
        _say("interrupted, nothing half-built is kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
