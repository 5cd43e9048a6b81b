# SPDX-License-Identifier: Apache-2.0
"""What a program is called that nobody has named: the script, module or class that it runs, else its executable."""

from __future__ import annotations

import numpy as np
import pytest

from kernelspan_agent.resolve.resource import service_name_of
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection

PYTHON = DetectedRuntime("python", 1, "CPython", "3.12", "/usr/bin/python3", np.zeros(1), 0)
JAVA = DetectedRuntime("java", 5, "OpenJDK", "17", "/libjvm.so", np.zeros(1), 0)
GO = DetectedRuntime("go", 3, "gc", "go1.26.1", "/app", np.zeros(1), 0)


@pytest.mark.parametrize(
    ("runtime", "line", "name"),
    [
        (PYTHON, "python3 -W ignore /srv/shop.py --port 80", "shop"),
        (PYTHON, "python3 -m gunicorn shop:app", "gunicorn"),
        (PYTHON, "python3 -c pass", "python3"),
        (JAVA, "java -Xmx64m -cp /srv/classes shop.Prices 127.0.0.1:80", "shop.Prices"),
        (JAVA, "java --class-path /srv/classes:/srv/lib/* shop.Prices", "shop.Prices"),
        (JAVA, "java --module-path /srv/modules -m shop/shop.Prices", "shop/shop.Prices"),
        (GO, "/srv/stock prices", "stock"),
        (None, "/srv/stock prices", "stock"),
    ],
)
def test_service_name(runtime: Detection, line: str, name: str) -> None:
    """A class path is no name."""
    arguments = tuple(line.split())
    assert service_name_of(f"/usr/bin/{arguments[0].rpartition('/')[2]}", arguments, runtime) == name
