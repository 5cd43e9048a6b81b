# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH102, PTH104, PTH106, PTH110, PTH116, PTH123, PTH208, SIM105 - the plain calls are what is traced
"""What the tests trace on every kernel: the same system calls from the same functions and lines, each time it runs. It begins and ends
when it is told: an emulated agent needs its time to find out what a process runs, and to read of it what it runs.
"""

import os
import socket
import subprocess
import sys
import threading
import time


def wait_to_begin(sign: str) -> None:
    """By calls that whoever gives the sign looks for."""
    while not os.path.exists(sign):
        time.sleep(0.1)


def wait_to_end(sign: str) -> None:
    while not os.path.exists(sign):
        time.sleep(0.1)


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


def replaced() -> None:
    child = os.fork()
    if not child:
        os.execv("/bin/true", ["true"])
    os.waitpid(child, 0)


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
    replaced()
    subprocess.run(["/bin/true"], check=True)


if __name__ == "__main__":
    wait_to_begin(os.path.join(sys.argv[1], "wait_to_begin"))
    main(sys.argv[1])
    wait_to_end(os.path.join(sys.argv[1], "wait_to_end"))
