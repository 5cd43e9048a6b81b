# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH102, PTH104, PTH106, PTH116, PTH123, PTH208, SIM105 - the plain calls are what is traced
"""What the tests trace on every kernel: the same system calls from the same functions and lines, each time it runs."""

import os
import socket
import subprocess
import sys
import threading
import time

SETTLE_SECONDS = 3.0  # an emulated agent needs so long to find out what a process runs, and whose code that is


def write_and_rename(folder: str, characters: int) -> str:
    path = os.path.join(folder, "text.txt")
    with open(path, "w") as file:
        file.write("x" * characters)
    os.rename(path, path + ".moved")
    with open(path + ".moved") as file:
        return file.read()


def deeper(levels: int) -> os.stat_result:
    if levels:
        return deeper(levels - 1)
    return os.stat("/etc/hostname")


def refused() -> None:
    with socket.socket() as client:
        try:
            client.connect(("127.0.0.1", 9))
        except ConnectionRefusedError:
            pass


def talk(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(os.path.join(folder, "socket"))
        server.listen()
        client.connect(os.path.join(folder, "socket"))
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"question")
            accepted.recv(100)


def in_a_thread() -> None:
    os.mkdir("folder")
    os.listdir("folder")
    os.rmdir("folder")


def nap() -> None:
    time.sleep(0.02)


def main(folder: str) -> None:
    os.chdir(folder)
    for characters in (1, 20, 300):
        write_and_rename(folder, characters)
    deeper(60)
    refused()
    talk(folder)
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    nap()
    subprocess.run(["/bin/true"], check=True)


if __name__ == "__main__":
    time.sleep(SETTLE_SECONDS)
    main(sys.argv[1])
    time.sleep(SETTLE_SECONDS)
