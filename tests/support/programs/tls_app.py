# SPDX-License-Identifier: Apache-2.0
"""Shakes hands by TLS with itself: a server of all versions, one that takes TLS 1.3 alone, and clients in threads.

tls_app.py PEM COUNT: both ends, COUNT connections of each of four threads; then says of each connection, as JSON: the name it
asked for, what it offered, the version and the protocol that both agreed upon, whether it was refused.
tls_app.py PEM: the servers alone; says their ports.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time

OFFERS: list[list[str]] = [[], ["http/1.1"], ["h2", "http/1.1"]]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
said: list[tuple[str, list[str], str, str, bool]] = []


def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, context), daemon=True).start()


def answer(connection: socket.socket, context: ssl.SSLContext) -> None:
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            while data := tls.recv(1000):
                tls.sendall(data)
    except OSError:
        connection.close()


def begin_server(least: ssl.TLSVersion) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    context.minimum_version = least
    context.set_alpn_protocols(["http/1.1", "h2"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    threading.Thread(target=serve, args=(listener, context), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def shake_hands(port: int, number: int) -> None:
    offered, version = OFFERS[number % 3], VERSIONS[number % 2]
    is_named = number % 7 != 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if offered:
        context.set_alpn_protocols(offered)
    name = f"h{number}.shop.test" if is_named else ""
    agreed, chosen, is_refused = None, None, False
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=name or None) as tls:
                agreed, chosen = tls.version(), tls.selected_alpn_protocol()
                for size in (1, 500, 900):
                    tls.sendall(b"GET / HTTP/1.1\r\n"[:size] * 9)
                    tls.recv(10000)
        except ssl.SSLError:
            is_refused = True
    said.append((name, offered, agreed or "", chosen or "", is_refused))


def main() -> None:
    ports = [begin_server(each) for each in VERSIONS]
    if len(sys.argv) == 2:
        print(*ports, flush=True)
        time.sleep(3600)

    def work(first: int) -> None:
        for number in range(first, 4 * int(sys.argv[2]), 4):
            shake_hands(ports[number % 5 == 0], number)

    threads = [threading.Thread(target=work, args=(each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(json.dumps(said))


main()
