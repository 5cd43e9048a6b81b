# SPDX-License-Identifier: Apache-2.0
"""The last plan, kept on disk: an agent that starts without its operator goes on with it.

Written beside and renamed, so that it is whole or the one before. What cannot be read is no plan, and no error: the
operator sends it again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from google.protobuf.message import DecodeError

from kernelspan_api.control import MAX_PLAN_BYTES
from kernelspan_api.control.control_pb2 import NodePlan

_DIGEST_BYTES = 32  # in front of the plan: a disk that lost the end of a file is no plan
_log = logging.getLogger(__name__)


class PlanFile:
    """One file, in a folder that is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> NodePlan | None:
        """The plan; None: there is none, or not a whole one."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_PLAN_BYTES + _DIGEST_BYTES + 1)
            digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == digest:
                return NodePlan.FromString(content)
            message = "it is not whole"
        except FileNotFoundError:
            return None
        except (OSError, DecodeError) as error:
            message = str(error)
        _log.warning("plan.unreadable path=%s message=%s", self._path, message)
        return None

    def write(self, plan: NodePlan) -> None:
        """Keeps the plan. A disk that takes nothing is said, and stops nothing."""
        content = plan.SerializeToString()
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            _log.warning("plan.unkept path=%s message=%s", self._path, error)
