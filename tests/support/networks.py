# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces, which reach each other, or know each other's addresses only as a third one translates them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.require import require


@dataclass(frozen=True, slots=True)
class Translated:
    """`inside` runs a command where the client is. It reaches `address`, which is the server's `port` in truth."""

    client: str
    server: str
    address: str
    port: int

    @staticmethod
    def inside(namespace: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def translated(port: int = 9090, seen_port: int = 8080) -> Iterator[Translated]:
    """A client's and a server's network, and a router that gives another address and port to both ends of each connection."""
    require("kernel", shutil.which("iptables"), "no iptables (tools/apt test)")
    client, server, router = (f"kernelspan-{os.getpid()}-{name}" for name in ("client", "server", "router"))
    script = f"""
ip netns add {client}; ip netns add {server}; ip netns add {router}
ip link add near netns {client} type veth peer name client netns {router}
ip link add near netns {server} type veth peer name server netns {router}
ip -n {client} addr add 10.203.1.2/24 dev near; ip -n {router} addr add 10.203.1.1/24 dev client
ip -n {server} addr add 10.203.2.2/24 dev near; ip -n {router} addr add 10.203.2.1/24 dev server
ip -n {client} link set lo up; ip -n {server} link set lo up
ip -n {client} link set near up; ip -n {server} link set near up
ip -n {router} link set client up; ip -n {router} link set server up
ip netns exec {router} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
ip netns exec {router} iptables -t nat -A PREROUTING -p tcp --dport {seen_port} -j DNAT --to-destination 10.203.2.2:{port}
ip netns exec {router} iptables -t nat -A POSTROUTING -o server -j MASQUERADE --random -p tcp
"""
    try:
        made = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
        require("kernel", made.returncode == 0, f"this kernel translates no addresses: {made.stderr.strip()}")
        yield Translated(client, server, f"10.203.1.1:{seen_port}", port)
    finally:
        for each in (client, server, router):
            subprocess.run(["ip", "netns", "del", each], capture_output=True, check=False)


@contextlib.contextmanager
def connected() -> Iterator[tuple[str, str]]:
    """Two networks with a line between them, at 10.204.1.1 and 10.204.1.2."""
    require("kernel", shutil.which("ip"), "no ip (tools/apt test)")
    first, second = (f"kernelspan-{os.getpid()}-{name}" for name in ("first", "second"))
    script = f"""
ip netns add {first}; ip netns add {second}
ip link add line netns {first} type veth peer name line netns {second}
ip -n {first} addr add 10.204.1.1/24 dev line; ip -n {second} addr add 10.204.1.2/24 dev line
for each in {first} {second}; do ip -n $each link set lo up; ip -n $each link set line up; done
"""
    try:
        made = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
        require("kernel", made.returncode == 0, f"this kernel has no such networks: {made.stderr.strip()}")
        yield first, second
    finally:
        for each in (first, second):
            subprocess.run(["ip", "netns", "del", each], capture_output=True, check=False)
