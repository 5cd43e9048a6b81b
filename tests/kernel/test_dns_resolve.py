# SPDX-License-Identifier: Apache-2.0
"""The operation Resolve beside questions that nobody answers: it is as long as its own question took, and none before it.

What is right is what the program says: how long it was at each question that was answered, from before it asked until after.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import runs

pytestmark = pytest.mark.root

# The server answers what has an even number; with `back`, the last of two questions first.
PROGRAM = """
import json, socket, struct, sys, threading, time
AT, how = ("127.77.0.56", 53), sys.argv[1]
def question(number):
    name = b"\\x05h%04d\\x04good\\x03lab\\0" % (number // 2)
    return struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
def serve():
    held = []
    while True:
        asked, client = server.recvfrom(512)
        held.append((asked[:2] + b"\\x81\\x80" + asked[4:], client))
        if how == "back" and len(held) < 2:
            continue
        for answer, client in reversed(held):
            if how == "back" or not answer[1] % 2:
                server.sendto(answer, client)
        held.clear()
def opened():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(20)
    if how != "named":
        made.connect(AT)
    return made
def ask(sock, number):
    sock.sendto(question(number), AT) if how == "named" else sock.send(question(number))
def receive(sock, number):
    assert sock.recvfrom(512)[0][:2] == struct.pack(">H", number)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(AT)
threading.Thread(target=serve, daemon=True).start()
said, sock = [], opened()
for number in range(1, 13, 2):
    ask(sock, number)
    if how == "closed":
        sock.close()
    time.sleep(0.5)
    if how == "closed":
        sock = opened()
    began = time.monotonic_ns()
    ask(sock, number + 1)
    receive(sock, number + 1)
    said.append(time.monotonic_ns() - began)
    if how == "back":
        receive(sock, number)
print(json.dumps(said))
"""


@pytest.mark.parametrize("how", ["closed", "kept", "named", "back"])
def test_no_resolve_begins_before_its_question(how: str, tmp_path: Path) -> None:
    """A socket that is closed and another at its place; one for all, connected or not; answers out of order."""
    wanted = runs.profile(tmp_path, network={"operations": ["Resolve"]})
    ran = runs.run(tmp_path, wanted, runs.SYSTEM_PYTHON, "-S", "-c", PROGRAM, how)
    assert ran.status == 0, ran.stderr
    said = json.loads(ran.stdout)
    took = [span.end_ns - span.start_ns for span in ran.operations if span.name == "dns.resolve"]
    assert len(took) == len(said) == 6
    assert all(0 < seen <= whole for seen, whole in zip(took, said, strict=True)), (took, said)
