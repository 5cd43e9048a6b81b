# SPDX-License-Identifier: Apache-2.0
"""Threads that wait for what never comes, each in another system call, below functions that call each other."""

import fcntl
import queue
import select
import socket
import tempfile
import time

threading.stack_size(1 << 18)
never, started = os.pipe()[0], threading.Semaphore(0)
held = threading.Lock()
held.acquire()
pair, listening = socket.socketpair(), socket.create_server(("127.0.0.1", 0))


def on_pipe():
    os.read(never, 1)


def on_sleep():
    time.sleep(3600)


def on_lock():
    with held:
        pass


class Server:
    def accept(self):
        return [connection for connection in iter(lambda: listening.accept(), None)]

    @staticmethod
    def receive():
        pair[0].recv(1)


def on_select():
    def inside(fds):
        return select.select(fds, [], [])

    return inside([never])


def on_queue():
    return queue.Queue().get()


def on_flock():
    with tempfile.TemporaryFile() as first, open("/proc/self/fd/%d" % first.fileno(), "rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        fcntl.flock(second, fcntl.LOCK_EX)


def generated(wait):
    yield wait()


def down(n, wait):
    if n:
        return down(n - 1, wait)
    started.release()
    return max(generated(wait))


WAYS = (on_pipe, on_sleep, on_lock, Server().accept, Server.receive, on_select, on_queue, on_flock)
for depth, way in enumerate(WAYS):
    threading.Thread(target=down, args=(depth, way), daemon=True).start()
for _ in WAYS:
    started.acquire()
os.write(1, b"%d\n" % (len(WAYS) + 1))
down(len(WAYS), lambda: os.read(0, 1))
