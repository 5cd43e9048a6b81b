# SPDX-License-Identifier: Apache-2.0
"""Memory that moves while code in it runs: copied after forks, gathered into huge pages, given back and taken again."""

import ctypes
import gc

ROUNDS = int(sys.argv[2])
HUGE, COLLAPSE, NOT_HUGE = 14, 25, 15  # MADV_*
memory = ctypes.CDLL(None)
memory.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
stop = threading.Event()
places = [stop]  # the function that was made last
SIZE = 2 << 20  # of a huge page


def move():
    turn = 0
    while not stop.wait(0.0005):
        turn += 1
        for thing in (code, code.__code__, sys._getframe(), vars(sys), places[-1]):
            begin = id(thing) & -SIZE
            for advice in (HUGE, COLLAPSE) if turn % 2 else (NOT_HUGE,):
                memory.madvise(begin, SIZE, advice)


def copied():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def taken_again(n):
    # Whole arenas come and go below the code.
    kept = [bytes(300 + n % 200) for _ in range(5000)]
    del kept[::2]
    return kept


def code(n):
    space = {"__name__": "moved%d" % (n % 7), "read": read, "M": M}
    text = "\n" * (n % 5) + "def f%d(deep):\n" % (n % 6) + "\n" * (n % 3)
    text += "    if deep:\n        return f%d(deep - 1)\n    return read(9, M())\n" % (n % 6)
    exec(compile(text, "/kernelspan/moved%d.py" % (n % 4), "exec"), space)
    places[:] = [space["f%d" % (n % 6)].__code__]
    space["f%d" % (n % 6)](n % 9)


ready()
sys.setswitchinterval(1000)  # a copy that is asked for the interpreter's lock waits for ever that somebody takes it
mover = threading.Thread(target=move)
mover.start()
for n in range(ROUNDS):
    copied()
    kept = taken_again(n)
    for i in range(20):
        code(n * 20 + i)
    del kept
    gc.collect()
stop.set()
mover.join()
finish()
