# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001 - paths are bytes, lambdas are called where they are made
"""Every system call on sockets, of every family, connected and not."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from scenarios import N, Said, call, main, said_result, scenario, setting, vectors

REQUESTED, TRANSFERRED = "kernelspan.io.requested", "kernelspan.io.transferred"
PEER, PEER_PORT = "network.peer.address", "network.peer.port"
LOCAL, LOCAL_PORT = "network.local.address", "network.local.port"
NAME_SERVER = ("127.77.0.54", 53)
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01"
BUFFER = ctypes.create_string_buffer(100)
Ends = dict[str, Any]


def ends(sock: socket.socket) -> Ends:
    """Both ends of a connected internet socket, as its span names them."""
    peer, local = sock.getpeername(), sock.getsockname()
    return {PEER: peer[0], PEER_PORT: peer[1], LOCAL: local[0], LOCAL_PORT: local[1]}


def _io(said: Said, name: str, result: int, between: Ends, requested: int | None = None) -> int:
    transferred = {TRANSFERRED: result} if result >= 0 else {}
    said(name, **between, **{REQUESTED: requested}, **transferred, **said_result(result))
    return result


class Message(ctypes.Structure):
    """struct mmsghdr, which begins with a struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("name_bytes", ctypes.c_uint32), ("parts", ctypes.c_void_p), ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_bytes", ctypes.c_size_t), ("flags", ctypes.c_int), ("sent", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]  # fmt: skip


def message(*parts: Any, to: bytes | None = None) -> Message:
    """A message of parts; they must be kept by the caller."""
    made = vectors(*parts)
    found = Message(to, len(to or b""), ctypes.cast(made, ctypes.c_void_p), len(parts))
    found.kept = made
    return found


def packed(address: tuple[Any, ...]) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    if ":" in address[0]:
        head = struct.pack("<H", socket.AF_INET6) + struct.pack(">HI", address[1], 0)
        return head + socket.inet_pton(socket.AF_INET6, address[0]) + bytes(4)
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H", address[1]) + socket.inet_aton(address[0]) + bytes(8)


def _talk(said: Said, kind: str, a: socket.socket, b: socket.socket, from_a: Ends, from_b: Ends) -> list[str]:
    """Everything that connected sockets can say to each other; what is sent is received whole."""
    fd, source = a.fileno(), os.open("/proc/self/exe", os.O_RDONLY)
    out = message(b"abc", b"de")
    several = (Message * 2)(message(b"12"), message(b"345"))
    senders: dict[str, tuple[Callable[[], int], int | None]] = {
        "write": (lambda: call("write", fd, b"12345", 5), 5),
        "writev": (lambda: call("writev", fd, vectors(b"123", b"45"), 2), None),
        "sendto": (lambda: call("sendto", fd, b"12345", 5, 0, 0, 0), 5),
        "sendmsg": (lambda: call("sendmsg", fd, out, 0), None),
        "sendfile": (lambda: call("sendfile", fd, source, 0, 5), 5),
    }
    into = message((ctypes.c_char * 60)(), (ctypes.c_char * 40)())
    arriving = (Message * 1)(message((ctypes.c_char * 100)()))
    receivers: dict[str, tuple[Callable[[], int], int | None]] = {
        "read": (lambda: call("read", b.fileno(), BUFFER, 100), 100),
        "readv": (lambda: call("readv", b.fileno(), vectors((ctypes.c_char * 100)()), 1), None),
        "recvfrom": (lambda: call("recvfrom", b.fileno(), BUFFER, 100, 0, 0, 0), 100),
        "recvmsg": (lambda: call("recvmsg", b.fileno(), into, 0), None),
        "recvmmsg": (lambda: 5 * call("recvmmsg", b.fileno(), arriving, 1, 0, 0), None),
    }
    for _ in range(N):
        for (send, asked), (receive, room) in zip(senders.values(), receivers.values()):  # noqa: B905 - Python 3.8
            _io(said, f"{kind}.send", send(), from_a, asked)
            _io(said, f"{kind}.receive", receive(), from_b, room)
    assert call("sendmmsg", fd, several, 2, 0) == 2
    _io(said, f"{kind}.send", 5, from_a)
    for size in (2, 3) if kind == "udp" else (5,):
        assert (
            _io(said, f"{kind}.receive", call("recvfrom", b.fileno(), BUFFER, size, 0x100, 0, 0), from_b, size) == size
        )
    b.setblocking(False)
    _io(said, f"{kind}.receive", call("recvfrom", b.fileno(), BUFFER, 100, 0, 0, 0), from_b, 100)
    b.setblocking(True)
    return [*senders, *receivers, "sendmmsg"]


def _stream(said: Said, family: int, address: tuple[str, int]) -> dict[str, Any]:
    listener = socket.create_server(address, family=family)
    server_at = {LOCAL: address[0], LOCAL_PORT: listener.getsockname()[1]}
    calls: list[str] = []
    for index in range(N):
        client = socket.socket(family)
        client.connect(listener.getsockname())
        a = ends(client)
        said("tcp.connect", **a)
        fd = call("accept", listener.fileno(), 0, 0) if index % 2 else call("accept4", listener.fileno(), 0, 0, 0)
        server = socket.socket(fileno=fd)
        b = ends(server)
        said("tcp.accept", **b)
        if index == 0:
            calls = _talk(said, "tcp", client, server, a, b)
        for sock, between in ((client, a), (server, b)):
            sock.close()
            said("tcp.close", **between)
    listener.setblocking(False)
    assert call("accept4", listener.fileno(), 0, 0, 0) == -11
    said("tcp.accept", **server_at, **said_result(-11))
    listener.close()
    said("tcp.close", **server_at)
    return {"calls": [*calls, "connect", "accept", "accept4", "close"]}


@scenario
def tcp4(folder: bytes, said: Said) -> dict[str, Any]:
    return _stream(said, socket.AF_INET, ("127.0.0.1", 0))


@scenario
def tcp6(folder: bytes, said: Said) -> dict[str, Any]:
    return _stream(said, socket.AF_INET6, ("::1", 0))


@scenario
def mapped(folder: bytes, said: Said) -> None:
    """IPv4 on an IPv6 socket is IPv4 to its reader."""
    listener = socket.create_server(("127.0.0.1", 0))
    for _ in range(N):
        client = socket.socket(socket.AF_INET6)
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        local = client.getsockname()[1]
        between = {PEER: "127.0.0.1", PEER_PORT: listener.getsockname()[1], LOCAL: "127.0.0.1", LOCAL_PORT: local}
        said("tcp.connect", **between)
        client.close()
        said("tcp.close", **between)
    listener.detach()


@scenario
def refused(folder: bytes, said: Said) -> None:
    """The address that a call names is the peer, whatever became of it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # never listens
        port = held.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for _ in range(N):
                sock = socket.socket(family)
                peer = {PEER: host, PEER_PORT: port}
                said("tcp.connect", **peer, **said_result(-sock.connect_ex((host, port))))
                sock.detach()
        listener = socket.create_server(("127.0.0.1", 0))
        sock = socket.socket()
        sock.setblocking(False)
        result = sock.connect_ex(listener.getsockname())
        said("tcp.connect", **ends(sock), **said_result(-result))
        sock.detach()
        listener.detach()
    said("tcp.close", **{LOCAL: "127.0.0.1", LOCAL_PORT: port})


@scenario
def unix_paths(folder: bytes, said: Said) -> None:
    """Paths and abstract names; one of the greatest length; the client's own where it has bound one."""
    os.chdir(folder)
    for name in (
        os.fsdecode(folder + b"/socket"),
        "relative",
        "x" * 107,
        "\0abstract",
        "\0with\0zero",
        "\0" + "y" * 107,
    ):
        shown = "@" + name[1:] if name[0] == "\0" else name
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(name)
        said("unix.connect", **{PEER: shown})
        server = socket.socket(fileno=call("accept4", listener.fileno(), 0, 0, 0))
        said("unix.accept", **{LOCAL: shown})
        for _ in range(N):
            _io(said, "unix.send", call("write", client.fileno(), b"12345", 5), {PEER: shown}, 5)
            _io(said, "unix.receive", call("read", server.fileno(), BUFFER, 100), {LOCAL: shown}, 100)
        for sock, end in ((client, {PEER: shown}), (server, {LOCAL: shown}), (listener, {LOCAL: shown})):
            sock.close()
            said("unix.close", **end)
    sock = socket.socket(socket.AF_UNIX)
    assert sock.connect_ex(b"absent") == 2
    said("unix.connect", **{PEER: "absent"}, **said_result(-2))
    sock.detach()


@scenario
def unix_pairs(folder: bytes, said: Said) -> None:
    """Sockets without a name; datagrams to one with."""
    a, b = socket.socketpair()
    _talk(said, "unix", a, b, {}, {})
    name = os.fsdecode(folder + b"/datagrams")
    receiver, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(name)
    for _ in range(N):
        sender.sendto(b"123", name)
        _io(said, "unix.send", 3, {PEER: name}, 3)
        receiver.recv(10)
        _io(said, "unix.receive", 3, {LOCAL: name}, 10)
    for sock in (receiver, sender, a, b):
        sock.detach()


def _datagrams(said: Said, family: int, host: str) -> None:
    server, client = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    server.bind((host, 0))
    client.bind((host, 0))
    server_port, client_port = server.getsockname()[1], client.getsockname()[1]
    from_client = {PEER: host, PEER_PORT: server_port, LOCAL: host, LOCAL_PORT: client_port}
    from_server = {PEER: host, PEER_PORT: client_port, LOCAL: host, LOCAL_PORT: server_port}
    to_server, address_bytes = packed((host, server_port)), ctypes.c_uint32(128)
    name = ctypes.create_string_buffer(128)
    for _ in range(N):  # nobody is connected: each call names the other end, or is told it
        _io(said, "udp.send", call("sendto", client.fileno(), b"123", 3, 0, to_server, len(to_server)), from_client, 3)
        address_bytes.value = 128
        where = ctypes.addressof(address_bytes)
        _io(said, "udp.receive", call("recvfrom", server.fileno(), BUFFER, 50, 0, name, where), from_server, 50)
        _io(said, "udp.send", call("sendmsg", client.fileno(), message(b"12", b"34", to=to_server), 0), from_client)
        into = message((ctypes.c_char * 60)(), to=bytes(128))
        _io(said, "udp.receive", call("recvmsg", server.fileno(), into, 0), from_server)
        several = (Message * 3)(*(message(b"x" * size, to=to_server) for size in (1, 2, 3)))
        assert call("sendmmsg", client.fileno(), several, 3, 0) == 3
        _io(said, "udp.send", 6, from_client)
        for size in (1, 2, 3):  # who is not told does not know
            _io(said, "udp.receive", call("recvfrom", server.fileno(), BUFFER, 9, 0, 0, 0), _local(from_server), 9)
            assert size
    many = (Message * 40)(*(message(b"x", to=to_server) for _ in range(40)))
    assert call("sendmmsg", client.fileno(), many, 40, 0) == 40
    said("udp.send", **_local(from_client))  # too many to be summed up, or to see that all go to one
    client.connect((host, server_port))
    said("udp.connect", **from_client)
    server.connect((host, client_port))
    said("udp.connect", **from_server)
    for _ in range(40):
        server.recv(9)
        _io(said, "udp.receive", 1, from_server, 9)
    _talk(said, "udp", client, server, from_client, from_server)
    for sock, between in ((client, from_client), (server, from_server)):
        sock.close()
        said("udp.close", **between)


def _local(between: Ends) -> Ends:
    return {LOCAL: between[LOCAL], LOCAL_PORT: between[LOCAL_PORT]}


@scenario
def udp4(folder: bytes, said: Said) -> None:
    _datagrams(said, socket.AF_INET, "127.0.0.1")


@scenario
def udp6(folder: bytes, said: Said) -> None:
    _datagrams(said, socket.AF_INET6, "::1")


def _answer(server: socket.socket) -> None:
    pid = os.fork()
    if pid == 0:
        for _ in range(2 * N):
            query, sender = server.recvfrom(512)
            server.sendto(query, sender)
        os._exit(0)


@scenario
def resolves(folder: bytes, said: Said) -> None:
    """From the query's sending to the answer's receipt is one name resolution, connected or not."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(NAME_SERVER)
    _answer(server)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    port = client.getsockname()[1]
    between = {PEER: NAME_SERVER[0], PEER_PORT: 53, LOCAL: "127.0.0.1", LOCAL_PORT: port}
    size = len(QUERY)
    for index in range(2 * N):
        if index == N:
            client.connect(NAME_SERVER)
            said("udp.connect", **between)
        said("dns.resolve", **between)
        client.send(QUERY) if index >= N else client.sendto(QUERY, NAME_SERVER)
        said("udp.send", **between, **{REQUESTED: size, TRANSFERRED: size})
        client.recv(512) if index >= N else client.recvfrom(512)
    client.detach()
    server.detach()
    os.wait()


@scenario
def slow_resolves(folder: bytes, said: Said) -> None:
    """The answer is there long before it is received: the receipt alone takes no time."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(NAME_SERVER)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    between = {PEER: NAME_SERVER[0], PEER_PORT: 53, LOCAL: "127.0.0.1", LOCAL_PORT: client.getsockname()[1]}
    for index in range(2 * N):
        if index == N:
            client.connect(NAME_SERVER)
        client.sendto(QUERY, NAME_SERVER)
        setting(lambda: server.sendto(*server.recvfrom(512)))
        time.sleep(0.005)
        client.recvfrom(512)
        said("dns.resolve", **between)


@scenario
def no_sockets(folder: bytes, said: Said) -> None:
    """Files and pipes are no sockets."""
    source, out = os.pipe()
    fd = os.open(folder + b"/file", os.O_RDWR | os.O_CREAT)
    for _ in range(N):
        os.write(out, b"x")
        os.read(source, 1)
        os.write(fd, b"x")
        os.close(os.dup(fd))


if __name__ == "__main__":
    main()
