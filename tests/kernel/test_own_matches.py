# SPDX-License-Identifier: Apache-2.0
"""Conditions that only user space can decide (whose program, which file), and those on sockets; credentials as arguments.

A condition is held against a probe beside it that has none: what that one saw, and for which the condition holds, is what it
must have seen, each as often.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiled import compiled
from tests.support.runs import SYSTEM_PYTHON, Run, profile, run

pytestmark = pytest.mark.root
NAME = "kernelspan.probe.name"
CALLS = {"one": 7, "two": 11, "deeper/one": 13}  # a program: how often it calls
FILES = {"a.txt": 3, "b.log": 5, "deeper/c.txt": 7}  # a file: how often it is synchronised
CALLER = """
#include <stdlib.h>
#include <sys/resource.h>
int main(int argc, char **argv)
{
	for (int i = 0; i < atoi(argv[1]); i++)
		getpriority(PRIO_PROCESS, 0);
	return 0;
}
"""
SYNC = """
import json, os, sys
for round in range(2):  # each by the descriptor that another had before
    for name, times in json.loads(sys.argv[1]).items():
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        for _ in range(times):
            os.fsync(file)
        os.close(file)
"""
CONNECT = """
import json, socket, sys
for address, port, source in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening, socket.socket(family) as client:
        for each, at in ((listening, port), (client, source)):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((address, at))
        listening.listen()
        client.connect((address, port))
        listening.accept()[0].close()
"""


def probe(name: str, of: dict[str, Any], *, args: list[dict[str, Any]], match: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "mode": "Event", **of, "args": args, **({"match": match} if match else {})}


def seen(ran: Run) -> dict[str, Counter[str]]:
    """By probe what its events say of their arguments, and how often."""
    found: dict[str, Counter[str]] = {}
    for span in ran.spans:
        if NAME in span.attributes:
            said = {key: value for key, value in span.attributes.items() if key.startswith("it")}
            found.setdefault(str(span.attributes[NAME]), Counter())[json.dumps(said, sort_keys=True)] += 1
    assert ran.report["operations"]["unaccounted"] == 0
    return found


def programs(folder: Path) -> dict[str, int]:
    """Paths of copies of one program, and how often each is to call."""
    made = compiled(folder, CALLER)
    (folder / "deeper").mkdir()
    for name in CALLS:
        shutil.copy(made, folder / name)
    return {str(folder / name): times for name, times in CALLS.items()}


def test_whose_program(tmp_path: Path) -> None:
    """By the path of the executable, of the first process of each and of those that come later."""
    paths = programs(tmp_path)
    one, two, deeper = paths
    conditions: dict[str, tuple[str, list[str], Callable[[str], bool]]] = {
        "in": ("In", [one, "/nowhere"], lambda path: path == one),
        "equal": ("Equal", [two], lambda path: path == two),
        "not-in": ("NotIn", [one, two], lambda path: path == deeper),
        "prefix": ("Prefix", [str(tmp_path / "deeper")], lambda path: path == deeper),
        "suffix": ("Suffix", ["/one"], lambda path: path in (one, deeper)),
        "not-suffix": ("NotSuffix", ["/one"], lambda path: path == two),
        "none": ("Equal", ["/nowhere"], lambda _: False),
    }
    call = {"kprobe": {"call": "getpriority", "syscall": True}}
    probes = [
        probe(name, call, args=[], match=[{"binaries": [{"operator": operator, "values": values}]}])
        for name, (operator, values, _) in conditions.items()
    ]
    times = 3
    script = "".join(f"{path} {count}\n" for path, count in paths.items()) * times
    found = seen(run(tmp_path, profile(tmp_path, probes=probes), "/bin/sh", "-c", script))
    for name, (_, _, holds) in conditions.items():
        expected = times * sum(count for path, count in paths.items() if holds(path))
        assert found.get(name, Counter()).total() == expected, name


def test_rights_and_namespaces_of_others(tmp_path: Path) -> None:
    """Of three processes of one program: as it is, in a network of its own, and of a user without rights."""
    path = next(iter(programs(tmp_path)))
    plain, apart, nobody = 7, 11, 13
    script = (
        f"{path} {plain}\nunshare --net {path} {apart}\n"
        f"setpriv --reuid=65534 --regid=65534 --clear-groups {path} {nobody}\n:"
    )
    admin = {"values": ["CAP_SYS_ADMIN"]}
    net = {"type": "Net", "values": [_namespace("Net")]}
    conditions: dict[str, tuple[dict[str, Any], int]] = {
        "here": ({"namespaces": [{"operator": "In", **net}]}, plain + nobody),
        "elsewhere": ({"namespaces": [{"operator": "NotIn", **net}]}, apart),
        "may": ({"capabilities": [{"set": "Effective", "operator": "In", **admin}]}, plain + apart),
        "may-not": ({"capabilities": [{"set": "Effective", "operator": "NotIn", **admin}]}, nobody),
        "inherits": ({"capabilities": [{"set": "Inheritable", "operator": "In", **admin}]}, 0),
        **{
            f"same-{kind.lower()}": (
                {"namespaces": [{"type": kind, "operator": "Equal", "values": [_namespace(kind)]}]},
                plain + apart + nobody,
            )
            for kind in ("Cgroup", "Ipc", "Time", "Uts")
        },
    }
    call = {"kprobe": {"call": "getpriority", "syscall": True}}
    probes = [probe(name, call, args=[], match=[match]) for name, (match, _) in conditions.items()]
    found = seen(run(tmp_path, profile(tmp_path, probes=probes), "/bin/sh", "-c", script))
    assert {name: found.get(name, Counter()).total() for name in conditions} == {
        name: count for name, (_, count) in conditions.items()
    }


def _namespace(kind: str) -> str:
    return str(Path("/proc/self/ns", kind.lower()).stat().st_ino)


def test_which_file(tmp_path: Path) -> None:
    """By the path of a descriptor's file, which many files have one after another."""
    (tmp_path / "deeper").mkdir()
    files = {str(tmp_path / name): times for name, times in FILES.items()}
    a, b, c = files
    conditions: dict[str, tuple[str, list[str], Callable[[str], bool]]] = {
        "equal": ("Equal", [a], lambda path: path == a),
        "not-equal": ("NotEqual", [a], lambda path: path != a),
        "in": ("In", [a, b], lambda path: path in (a, b)),
        "prefix": ("Prefix", [str(tmp_path / "deeper")], lambda path: path == c),
        "suffix": ("Suffix", [".txt"], lambda path: path in (a, c)),
        "not-suffix": ("NotSuffix", [".txt"], lambda path: path == b),
    }
    call = {"kprobe": {"call": "fsync", "syscall": True}}
    args = [{"index": 0, "type": "FD", "attribute": "it"}]
    probes = [
        probe(name, call, args=args, match=[{"args": [{"index": 0, "operator": operator, "values": values}]}])
        for name, (operator, values, _) in conditions.items()
    ]
    command = (SYSTEM_PYTHON, "-c", SYNC, json.dumps(files))
    found = seen(run(tmp_path, profile(tmp_path, probes=probes), *command))
    for name, (_, _, holds) in conditions.items():
        expected = 2 * sum(times for path, times in files.items() if holds(path))
        assert found[name].total() == expected, name
        assert all(holds(json.loads(said)["it"]) for said in found[name]), found[name]


def _free_ports(family: socket.AddressFamily, address: str, count: int) -> list[int]:
    held = [socket.socket(family) for _ in range(count)]
    try:
        for each in held:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _within(address: Any, network: str) -> bool:
    found, wanted = ipaddress.ip_address(str(address)), ipaddress.ip_network(network)
    return found.version == wanted.version and found in wanted


def test_which_socket(tmp_path: Path) -> None:
    """By both ends of a kernel's socket, of both families."""
    port, source, *_ = _free_ports(socket.AF_INET, "127.0.0.1", 2)
    port6, source6 = _free_ports(socket.AF_INET6, "::1", 2)
    local, peer = "it.local", "it.peer"
    conditions: dict[str, tuple[str, list[str], Callable[[dict[str, Any]], bool]]] = {
        "source-port": ("SourcePort", [str(source)], lambda it: it[f"{local}.port"] == source),
        "not-source-port": ("NotSourcePort", [str(source)], lambda it: it[f"{local}.port"] != source),
        "destination-port": ("DestinationPort", [str(port6)], lambda it: it.get(f"{peer}.port") == port6),
        "source-cidr": ("SourceCIDR", ["127.0.0.0/8"], lambda it: _within(it[f"{local}.address"], "127.0.0.0/8")),
        "source-cidr-6": ("SourceCIDR", ["::1/128"], lambda it: _within(it[f"{local}.address"], "::1/128")),
        "family": ("Family", ["AF_INET6"], lambda it: it["it.type"] == "ipv6"),
        "protocol": ("Protocol", ["IPPROTO_TCP"], lambda _: True),
    }
    of = {"tracepoint": {"category": "sock", "event": "inet_sock_set_state", "raw": True}}
    args = [{"index": 0, "type": "Sock", "attribute": "it"}]
    probes = [probe("all", of, args=args, match=[])] + [
        probe(name, of, args=args, match=[{"args": [{"index": 0, "operator": operator, "values": values}]}])
        for name, (operator, values, _) in conditions.items()
    ]
    what = json.dumps([("127.0.0.1", port, source), ("::1", port6, source6)])
    found = seen(run(tmp_path, profile(tmp_path, probes=probes), SYSTEM_PYTHON, "-c", CONNECT, what))
    ours = {source, source6, port, port6}
    everything = [(json.loads(said), said, times) for said, times in found["all"].items()]
    assert ours <= {said[f"{local}.port"] for said, _, _ in everything}
    for name, (_, _, holds) in conditions.items():
        expected = Counter({text: times for said, text, times in everything if holds(said)})
        assert expected, name
        assert found.get(name) == expected, name


def test_credentials(tmp_path: Path) -> None:
    """Of whom an image is run as."""
    of = {"tracepoint": {"category": "sched", "event": "sched_process_exec", "raw": True}}
    args = [{"index": 0, "resolve": "cred", "type": "Cred", "attribute": "it"}]
    script = (
        "/bin/true; setpriv --reuid=65534 --regid=65533 --clear-groups /bin/true; setpriv --ruid=65534 /bin/true; :"
    )
    found = seen(
        run(tmp_path, profile(tmp_path, probes=[probe("who", of, args=args, match=[])]), "/bin/sh", "-c", script)
    )
    told = [json.loads(said) for said in found["who"]]
    whom = {tuple(each[f"it.{name}"] for name in ("uid", "gid", "euid", "egid")) for each in told}
    assert whom == {(0, 0, 0, 0), (65534, 65533, 65534, 65533), (65534, 0, 0, 0)}
    by_user = {each["it.uid"]: each["it.capabilities"] for each in told if each["it.euid"] == each["it.uid"]}
    effective = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, check=True, text=True)
    assert by_user == {0: f"{int(effective.stdout.split()[1], 16):#x}", 65534: "0x0"}
