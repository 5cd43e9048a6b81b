# SPDX-License-Identifier: Apache-2.0
"""What agent and operator both know of the stream between them; the messages are in `control_pb2`, made of protos/.

Importing this imports no protobuf. REVISION rises when a message means something that an older reader would get wrong;
a reader of an older revision says AgentOutdated and goes on with what it has.
"""

from __future__ import annotations

SYNC = "/kernelspan.v1alpha1.Control/Sync"
REVISION = 1
AUDIENCE = "kernelspan-operator"  # of the agents' projected service-account tokens
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 35.0  # three heartbeats and the way: then the other side is taken for gone
MAX_PLAN_BYTES = 32 << 20  # 110 pods of 200 containers and 1,000 profiles of 20 KiB
MAX_REPORT_BYTES = 8 << 20
