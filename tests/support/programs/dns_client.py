# SPDX-License-Identifier: Apache-2.0
"""Asks a name server from several threads, and says of each name what it was answered.

dns_client.py glibc|dnspython SERVER THREADS NAMES...: of each name the addresses, or the error; in the end as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading


def ask_glibc(name: str) -> list[str] | str:
    """As nearly every program does."""
    try:
        found = socket.getaddrinfo(name + ".", None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return errors.get(error.errno, str(error))
    return sorted({each[4][0] for each in found})


errors = {socket.EAI_NONAME: "NXDOMAIN", socket.EAI_AGAIN: "REFUSED"}


def ask_dnspython(name: str) -> list[str] | str:
    """Both families one after another; by TCP where the answer is truncated."""
    found: set[str] = set()
    for kind in ("A", "AAAA"):
        query = dns.message.make_query(name, kind)
        answer, _ = dns.query.udp_with_fallback(query, server, timeout=20)
        if answer.rcode():
            return dns.rcode.to_text(answer.rcode())
        found |= {item.address for each in answer.answer for item in each}
    return sorted(found)


def ask_at_once(names: list[str]) -> list[list[str] | str]:
    """All by one socket, before the first answer is read; then by one connection."""
    queries = [dns.message.make_query(name, "A") for name in names]
    answers = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(20)
        for query in queries:
            dns.query.send_udp(udp, query, (server, 53))
        for _ in queries:
            answer, _ = dns.query.receive_udp(udp, (server, 53))
            answers[answer.id] = answer
    with socket.create_connection((server, 53), 20) as tcp:
        tcp.sendall(b"".join(len(wire := query.to_wire()).to_bytes(2, "big") + wire for query in queries))
        for _ in queries:
            answer, _ = dns.query.receive_tcp(tcp)
            assert answer.rcode() == answers[answer.id].rcode()
            answers[answer.id] = answer  # none of it is truncated
    return [answered(answers[query.id]) for query in queries]


def answered(answer: dns.message.Message) -> list[str] | str:
    """Its addresses, or what is wrong."""
    if answer.rcode():
        return dns.rcode.to_text(answer.rcode())
    return sorted(item.address for each in answer.answer for item in each)


def work(names: list[str], said: dict[str, list[str] | str]) -> None:
    """One thread's."""
    if how == "at-once":
        for at in range(0, len(names), 8):
            said.update(zip(names[at : at + 8], ask_at_once(names[at : at + 8]), strict=True))
        return
    for name in names:
        said[name] = ask_glibc(name) if how == "glibc" else ask_dnspython(name)


how, server, count, *everything = sys.argv[1:]
if how != "glibc":
    import dns.message
    import dns.query
    import dns.rcode
answers_by_name: dict[str, list[str] | str] = {}
threads = [
    threading.Thread(target=work, args=(everything[number :: int(count)], answers_by_name))
    for number in range(int(count))
]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(json.dumps(answers_by_name))
