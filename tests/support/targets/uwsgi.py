# SPDX-License-Identifier: Apache-2.0
"""A web application for uwsgi, which forks without Python's knowing: it says after each request where that was served."""

_FD = os.dup(0)  # one of its own: applications may share a process, each in an interpreter of its own
_lock, _pid = threading.Lock(), 0


def application(environ, start_response):
    global _pid
    with _lock:
        if _pid != os.getpid():
            _pid = os.getpid()
            _renew()
    name = environ["PATH_INFO"]
    read(_FD, M(name))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body(name)


def body(name):
    (lambda: read(_FD, M(name)))()
    yield b"%d\n" % os.getpid()
    read(_FD, M(name))
    with _lock:
        finish()
