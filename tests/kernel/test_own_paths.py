# SPDX-License-Identifier: Apache-2.0
"""`resolve` from a profile to a span: what a path leads to, beside what the program knows of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.runs import SYSTEM_PYTHON, profile, run

PROGRAM = """
import json, os, socket
listening, client = socket.socket(), socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
client.connect(listening.getsockname())
os.writev(os.open("/dev/null", os.O_WRONLY), [b"x" * 37, b"y" * 1234])
print(json.dumps({"source": client.getsockname()[1], "destination": listening.getsockname()[1]}))
"""


def argument(of: dict[str, Any], kind: str, attribute: str, resolve: str) -> dict[str, Any]:
    return {**of, "type": kind, "attribute": attribute, "resolve": resolve}


def test_paths_into_the_process_and_into_the_kernel(tmp_path: Path) -> None:
    """Elements of an array that is the process's; a cast, and a name behind a kernel's pointer."""
    vector, sock = {"field": "vec"}, {"index": 0}
    probes = [
        {
            "name": "written",
            "mode": "Event",
            "tracepoint": {"category": "syscalls", "event": "sys_enter_writev"},
            "args": [
                argument(vector, "UInt64", "first", "[0].iov_len"),
                argument(vector, "UInt64", "second", "[1].iov_len"),
            ],
        },
        {
            "name": "state",
            "mode": "Event",
            "tracepoint": {"category": "sock", "event": "inet_sock_set_state", "raw": True},
            "args": [
                argument(sock, "UInt16", "source", "__sk_common.skc_num"),
                argument(sock, "UInt16", "destination", "(struct inet_sock *).sk.__sk_common.skc_dport"),
                argument(sock, "UInt8", "family", "__sk_common.skc_family"),
                argument(sock, "String", "protocol", "__sk_common.skc_prot.name"),
            ],
        },
        *(_by_family(name, value) for name, value in (("internet", "2"), ("newer-internet", "10"))),
    ]  # fmt: skip
    ran = run(tmp_path, profile(tmp_path, probes=probes), SYSTEM_PYTHON, "-c", PROGRAM)
    truth = json.loads(ran.stdout)
    found = [span.attributes for span in ran.spans]
    assert [(each["first"], each["second"]) for each in found if "first" in each] == [(37, 1234)]
    states = [each for each in found if each.get("source") == truth["source"] and each["destination"]]
    assert states
    swapped = int.from_bytes(truth["destination"].to_bytes(2, "big"), "little")
    assert {(each["destination"], each["family"], each["protocol"]) for each in states} == {(swapped, 2, "TCP")}
    compared = [(each["kernelspan.probe.name"], each["bound"]) for each in found if "bound" in each]
    assert {name for name, _ in compared} == {"internet"}
    assert truth["source"] in {bound for _, bound in compared}


def _by_family(name: str, family: str) -> dict[str, Any]:
    """A condition on the second of two members of one argument, of which a condition without `resolve` means the first."""
    return {
        "name": name,
        "mode": "Event",
        "tracepoint": {"category": "sock", "event": "inet_sock_set_state", "raw": True},
        "args": [
            argument({"index": 0}, "UInt16", "bound", "__sk_common.skc_num"),
            argument({"index": 0}, "UInt16", "kind", "__sk_common.skc_family"),
        ],
        "match": [
            {
                "args": [
                    {"index": 0, "operator": "GreaterThan", "values": ["100"]},
                    {"index": 0, "resolve": "__sk_common.skc_family", "operator": "Equal", "values": [family]},
                ]
            }
        ],
    }
