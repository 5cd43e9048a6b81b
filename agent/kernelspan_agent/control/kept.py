# SPDX-License-Identifier: Apache-2.0
"""The Secrets that came beside the last plan, kept in a folder that is memory and no disk, for an agent that restarts."""

from __future__ import annotations

from pathlib import Path

from kernelspan_agent.control.plans import PlanFile
from kernelspan_api.control.control_pb2 import NodePlan


class KeptPlan:
    """The last plan: on disk without its Secrets, which are in the other folder."""

    def __init__(self, state: Path, secrets: Path) -> None:
        """Both folders are made where they are not there. Raises OSError."""
        for folder in (state, secrets):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._plan, self._secrets = PlanFile(state / "plan"), PlanFile(secrets / "secrets")

    def read(self) -> NodePlan | None:
        """The plan; without a hash where its Secrets are gone, so that the operator sends it again. None: there is none."""
        plan = self._plan.read()
        if plan is None:
            return None
        beside = self._secrets.read()
        if beside is not None and beside.hash == plan.hash:
            plan.secrets.extend(beside.secrets)
        else:
            plan.hash = ""
        return plan

    def write(self, plan: NodePlan) -> None:
        """Keeps both."""
        bare = NodePlan()
        bare.CopyFrom(plan)
        bare.ClearField("secrets")
        self._secrets.write(NodePlan(hash=plan.hash, secrets=plan.secrets))
        self._plan.write(bare)
