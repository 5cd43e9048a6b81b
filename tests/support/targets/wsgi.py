# SPDX-License-Identifier: Apache-2.0
"""A web application that says where each request was served."""

import atexit

atexit.register(finish)


def application(environ, start_response):
    name = environ["PATH_INFO"]
    read(9, M(name))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body(name)


def body(name):
    read(9, M(name))
    yield b"%d\n" % os.getpid()
