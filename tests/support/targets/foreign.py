# SPDX-License-Identifier: Apache-2.0
"""Threads that Python did not make: each call-back gets a PyThreadState for its time and gives it back."""

import ctypes

ROUNDS = int(sys.argv[2])
libc = ctypes.CDLL(None)
ROUTINE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
thread_t = ctypes.c_ulong


@COMPARE
def compare(one, other):
    read(9, M("compare"))
    return 0


def nested(n):
    read(9, M("nested"))
    return nested(n - 1) if n else 0


@ROUTINE
def routine(argument):
    nested((argument or 0) % 4)
    libc.qsort((ctypes.c_int * 4)(), 4, 4, compare)
    return 0


def foreign(count):
    threads = [thread_t() for _ in range(count)]
    for number, thread in enumerate(threads):
        assert libc.pthread_create(ctypes.byref(thread), None, routine, ctypes.c_void_p(number)) == 0
    for thread in threads:
        libc.pthread_join(thread, None)


def own(n):
    read(9, M("own"))
    worker = threading.Thread(target=nested, args=(n % 5,))
    worker.start()
    worker.join()


ready()
for turn in range(ROUNDS):
    foreign(1 + turn % 5)
    own(turn)
    libc.qsort((ctypes.c_int * 4)(), 4, 4, compare)
finish()
