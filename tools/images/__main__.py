# SPDX-License-Identifier: Apache-2.0
"""`python3 -m tools.images [NAME ...]`: makes images in docker; progress goes to stderr, `name<TAB>image` to stdout.

Exit codes: 0 fine, 1 something could not be made, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tools.build import build
from tools.errors import ToolError
from tools.images.docker import Docker, docker
from tools.images.product import IMAGES, make, write_context


def _say(text: str) -> None:
    print(f"images: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.images", description="Make the project's images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; none means all")
    parser.add_argument("--kind", metavar="CLUSTER", help="give them to the nodes of this kind cluster too")
    parser.add_argument("--context", metavar="FOLDER", type=Path, help="only fill an empty folder for `docker build`")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(IMAGES)):
        parser.error(f"no such image: {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    try:
        if options.context:
            options.context.mkdir(parents=True, exist_ok=True)
            write_context(options.context, _say)
            return 0
        with docker(_say) as daemon:
            made = make(daemon, options.names, _say)
            print("\n".join(f"{name}\t{image}" for name, image in made.items()))
            if options.kind:
                _load(daemon, options.kind, list(made.values()))
    except ToolError as error:
        _say(str(error))
        if error.hint:
            _say(error.hint)
        return 1
    except KeyboardInterrupt:
        _say("interrupted, nothing half-made is kept")
        return 130
    return 0


def _load(daemon: Docker, cluster: str, images: list[str]) -> None:
    kind = build(("kind",), _say)["kind"]
    command = [str(kind), "load", "docker-image", "--name", cluster, *images]
    path = f"{Path(daemon.command).parent}:{os.environ['PATH']}"  # kind takes `docker` from there
    if subprocess.run(command, env={**daemon.environment, "PATH": path}, check=False).returncode:
        raise ToolError(f"kind could not load the images into the cluster {cluster}")


if __name__ == "__main__":
    sys.exit(main())
