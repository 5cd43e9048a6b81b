# SPDX-License-Identifier: Apache-2.0
"""Memory that moves while code in it runs: copied after forks, gathered into huge pages, given back and taken again."""

import ctypes
import gc

ROUNDS = int(sys.argv[2])
HUGE, COLLAPSE, NOT_HUGE = 14, 25, 15  # MADV_*
process = ctypes.PyDLL(None)  # keeps the interpreter's lock: after a fork there is nobody to give it back
memory = ctypes.CDLL(None)  # lets it go: the others run meanwhile
memory.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
stop = threading.Event()


def ranges():
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            place, rights, _, _, inode, *name = line.split()
            if rights.startswith("rw-p") and inode == "0" and (not name or name == ["[heap]"]):
                found.append(tuple(int(end, 16) for end in place.split("-")))
    return found


def move():
    turn = 0
    while not stop.is_set():
        turn += 1
        for begin, end in ranges():
            for advice in (HUGE, COLLAPSE) if turn % 2 else (NOT_HUGE,):
                memory.madvise(begin, end - begin, advice)
        try:
            with open("/proc/sys/vm/compact_memory", "w") as file:
                file.write("1")
        except OSError:
            pass


def copied():
    pid = process.fork()
    if pid == 0:
        process._exit(0)
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
    space["f%d" % (n % 6)](n % 9)


ready()
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
