# SPDX-License-Identifier: Apache-2.0
"""What agent and operator both know of the stream between them; the messages are in `control_pb2`, made of protos/.

Importing this imports no protobuf. REVISION rises when a message means something that an older reader would get wrong;
a reader of an older revision says AgentOutdated and goes on with what it has.
"""

from __future__ import annotations

import hashlib

SYNC = "/kernelspan.v1alpha1.Control/Sync"
MEET = "/kernelspan.v1alpha1.Control/Meet"
RESOLVE = "/kernelspan.v1alpha1.Peer/Resolve"
REVISION = 1
AUDIENCE = "kernelspan-operator"  # of the agents' projected service-account tokens
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 35.0  # three heartbeats and the way: then the other side is taken for gone
MAX_PLAN_BYTES = 32 << 20  # 110 pods of 200 containers and 1,000 profiles of 20 KiB
MAX_REPORT_BYTES = 8 << 20
MAX_ADDRESSES = 256  # of an Enquiry
MAX_ENQUIRY_BYTES = 64 << 10
MAX_QUERY_BYTES = 64 << 10  # of 256 questions
PEER_DOMAIN = "peer.kernelspan"


def peer_name(node: str) -> str:
    """What the certificate of a node's agent is made out to: a name that no node, however it is called, makes another's."""
    return f"{hashlib.sha256(node.encode()).hexdigest()[:40]}.{PEER_DOMAIN}"
