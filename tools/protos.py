# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.protos`: makes the Python code of protos/ anew (messages and their types; no gRPC stubs).

Nothing but the compiler of grpcio-tools, locked in requirements/lint.txt, has a hand in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "kernelspan/v1alpha1/control.proto"
TARGET = ROOT / "api/kernelspan_api/control"


def generate() -> dict[str, bytes]:
    """File name to content. Raises CalledProcessError where the source is no good."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos")]
        subprocess.run([*command, f"--python_out={folder}", f"--pyi_out={folder}", SOURCE], check=True)
        return {path.name: path.read_bytes() for path in sorted((Path(folder) / SOURCE).parent.iterdir())}


if __name__ == "__main__":
    for name, content in generate().items():
        (TARGET / name).write_bytes(content)
