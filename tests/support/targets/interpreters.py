# SPDX-License-Identifier: Apache-2.0
"""Sub-interpreters: made, used from the main thread and from others, ended; the main one goes on in between."""

TEXT = open(sys.argv[0], encoding="utf-8").read().partition("# --- the target itself")[0]
SUB = """
import sys
sys.argv = %r
_FD = %d
exec(compile(%r, "/kernelspan/said.py", "exec"))
def inner(n):
    read(%d, M("sub"))
    return [inner(n - 1)] if n else 0
class Kind:
    def run(self):
        inner(3)
        return sorted([1, 2], key=lambda x: read(%d, M("sub")))
for _ in range(5):
    Kind().run()
finish()
"""


def maker():
    """(make, run, end), by whichever module this version has."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        run = getattr(module, "run_string", None) or module.exec
        return module.create, run, module.destroy
    return None


def use(fd):
    read(9, M("main"))
    one = make()
    read(9, M("main"))
    run(one, SUB % (sys.argv, fd, TEXT, fd, fd))
    read(9, M("main"))
    end(one)
    read(9, M("main"))


def several():
    made = [make() for _ in range(3)]
    for number, one in enumerate(made):
        run(one, SUB % (sys.argv, 20 + number, TEXT, 20 + number, 20 + number))
        read(9, M("main"))
    for one in made:
        end(one)


ready()
found = maker()
read(9, M("main"))
if found:
    make, run, end = found
    for turn in range(4):
        use(10)
        worker = threading.Thread(target=use, args=(11 + turn,))
        worker.start()
        worker.join()
    several()
read(9, M("main"))
finish()
