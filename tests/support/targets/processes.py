# SPDX-License-Identifier: Apache-2.0
"""A process with children of every sort. Each child of the same program says for itself what it did."""

import multiprocessing
import subprocess

KIND, COUNT = sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1


def act(name, n=1):
    for _ in range(n):
        read(9, M(name))


def forked():
    for n in range(COUNT):
        act("parent")
        child = os.fork()
        if not child:
            act("child %d" % n)
            if n % 3 == 0:
                grandchild = os.fork()
                if not grandchild:
                    act("grandchild %d" % n)
                    finish()
                    os._exit(0)
                os.waitpid(grandchild, 0)
            act("child %d" % n)
            finish()
            os._exit(0)
        act("parent")
        os.waitpid(child, 0)


def at_once():
    children = []
    for n in range(COUNT):
        child = os.fork()
        if not child:
            act("at once %d" % n)
            finish()
            os._exit(0)
        children.append(child)
    act("parent")
    for child in children:
        os.waitpid(child, 0)


def chain():
    act("link %d" % COUNT, 3)
    finish()
    if COUNT > 1:
        os.execv(sys.executable, [sys.executable, sys.argv[0], sys.argv[1], "chain", str(COUNT - 1)])
    os._exit(0)


def spawned():
    for n in range(COUNT):
        act("parent")
        subprocess.check_call([sys.executable, "-S", sys.argv[0], sys.argv[1], "leaf"])
    children = [subprocess.Popen([sys.executable, "-S", sys.argv[0], sys.argv[1], "leaf"]) for _ in range(COUNT)]
    act("parent")
    for child in children:
        assert child.wait() == 0


def reused():
    # The next child gets the number of the one before, if nobody else on the machine is faster.
    last = 0
    for n in range(COUNT):
        if last:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(last - 1))
        child = os.fork()
        if not child:
            if n % 3 == 1:
                os.execv(sys.executable, [sys.executable, "-S", *sys.argv[:2], "leaf", "1", "reuse-%d" % n])
            act("fork-%d" % n)
            finish()
            os._exit(0)
        last = last or child
        os.waitpid(child, 0)


def leaf():
    act(sys.argv[4] if len(sys.argv) > 4 else KIND)


def work(n):
    act("worker")
    finish()
    return n


def pools():
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        children = [context.Process(target=work, args=(n,)) for n in range(COUNT)]
        for child in children:
            child.start()
        act("parent")
        for child in children:
            child.join()


if __name__ == "__main__":
    {"forked": forked, "at_once": at_once, "chain": chain, "spawned": spawned, "pools": pools, "reused": reused, "leaf": leaf}[KIND]()
    finish()
