# SPDX-License-Identifier: Apache-2.0
"""A real name server, Debian's Unbound, in a root of its own, on port 53 of an address of loopback; and its log.

It knows hosts of `good.lab.` (`h0` and so on; `big0` and so on, whose addresses do not fit into a datagram), and refuses
`refused.lab.`.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import databases, venvs

HOSTS, BIG, BIG_ADDRESSES = 480, 4, 50
_numbers = itertools.count(os.getpid() * 16)  # sessions side by side have addresses of their own
_SERVER = "/usr/sbin/unbound"
_REPLY = re.compile(r" info: (\S+) (\S+) (\S+) IN (\S+) [0-9.]+ \d+ \d+$")
_SETTINGS = """
server:
  directory: "/tmp"
  chroot: ""
  username: ""
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  logfile: ""
  log-replies: yes
  interface: {address}
  access-control: 127.0.0.0/8 allow
  module-config: "iterator"
  local-zone: "good.lab." static
  local-zone: "refused.lab." refuse
{data}
remote-control:
  control-enable: no
"""

Asked = Counter[tuple[str, str, str]]
"""By name, type and response code."""


def addresses_of(name: str) -> list[str]:
    """What the server knows."""
    host = name.partition(".")[0]
    number = int(host[3:] if host.startswith("big") else host[1:])
    if host.startswith("big"):
        return [str(ipaddress.ip_address("10.9.0.0") + 256 * number + at) for at in range(BIG_ADDRESSES)]
    return [str(ipaddress.ip_address(first) + number) for first in ("10.1.0.0", "fd00::1:0")]


@dataclass
class NameServer:
    """One that runs. `command`: what runs it."""

    address: str
    command: list[str]
    log: Path
    folder: Path
    said: int = field(default=0)

    def replies(self) -> Asked:
        """What it has answered since it was asked last."""
        lines = self.log.read_text().splitlines()
        found = [match for line in lines[self.said :] if (match := _REPLY.search(line))]
        self.said = len(lines)
        return Counter((match[2].rstrip("."), match[3], match[4]) for match in found)

    def resolving(self, *command: str | Path) -> list[str]:
        """A command whose resolver asks this server."""
        for name, text in (
            ("resolv.conf", f"nameserver {self.address}\noptions timeout:5 attempts:1\n"),
            ("nsswitch.conf", "hosts: dns\n"),
        ):
            (self.folder / name).write_text(text)
        binds = [
            f"mount --bind {shlex.quote(str(self.folder / name))} /etc/{name}"
            for name in ("resolv.conf", "nsswitch.conf")
        ]
        script = " && ".join([*binds, 'exec "$@"'])
        return ["unshare", "-m", "sh", "-c", script, "sh", *map(str, command)]


def python() -> Path:
    """The Python of a virtual environment that has dnspython."""
    return venvs.library_venv(Path(__file__).with_name("dns_venv.txt")) / "bin" / "python"


@functools.cache
def root() -> Path:
    """The root of Debian's Unbound, fetched and unpacked if it is not. Raises debian.DebianError."""
    return databases.root_of("unbound", ["unbound"], [[_SERVER, "-V"]])


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[NameServer]:
    """One that does not run yet."""
    number = next(_numbers)
    address = f"127.{64 + number // 254 // 256 % 64}.{number // 254 % 256}.{1 + number % 254}"
    hosts = [f"h{number}.good.lab." for number in range(HOSTS)] + [f"big{number}.good.lab." for number in range(BIG)]
    data = [(host, each) for host in hosts for each in addresses_of(host)]
    lines = [f'  local-data: "{host} 60 IN {"AAAA" if ":" in each else "A"} {each}"' for host, each in data]
    settings = root() / "tmp" / f"unbound-{number}.conf"
    settings.write_text(_SETTINGS.format(address=address, data="\n".join(lines)))
    command = ["chroot", str(root()), _SERVER, "-d", "-c", f"/tmp/{settings.name}"]
    try:
        yield NameServer(address, command, folder / "unbound.log", folder)
    finally:
        settings.unlink()


@contextlib.contextmanager
def unbound(folder: Path) -> Iterator[NameServer]:
    """One that nobody traces."""
    with (
        prepared(folder) as server,
        server.log.open("wb") as log,
        subprocess.Popen(server.command, stdout=log, stderr=log) as process,
    ):
        try:
            databases.until(lambda: answers(server.address), "Unbound answers")
            server.replies()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)


def answers(address: str) -> bool:
    """Whether a server takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, 53), 1):
        return True
    return False
