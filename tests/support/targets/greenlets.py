# SPDX-License-Identifier: Apache-2.0
"""gevent and bare greenlets: side by side, one after another, nested; operations bear their greenlet's name."""

LATE = sys.argv[4:] == ["late"]
if LATE:
    ready()  # it is traced before it has them

import gevent
import gevent.pool
import greenlet

SERIAL, WIDE = int(sys.argv[2]), int(sys.argv[3])


def inner(name):
    read(9, M(name))
    gevent.sleep(0)
    read(9, M(name))


def work(name, depth=2):
    read(9, M(name))
    inner(name)
    if depth:
        gevent.spawn(work, name + "/child", depth - 1).join()
        read(9, M(name))
    for _ in rows(name):
        read(9, M(name))


def rows(name):
    for _ in range(2):
        read(9, M(name))
        gevent.sleep(0)
        yield 1


def one_read(name):
    read(9, M(name))


def bare(name, partner):
    read(9, M(name))
    for _ in range(3):
        partner().switch()
        read(9, M(name))


def main(prefix):
    for n in range(SERIAL):
        gevent.spawn(one_read, "%s serial %d" % (prefix, n)).join()
        if n % 7 == 0:
            read(9, M(prefix + " main"))
    for n in range(SERIAL // 8):
        gevent.spawn(inner, "%s serial inner %d" % (prefix, n)).join()
    gevent.joinall([gevent.spawn(work, "%s wide %d" % (prefix, n)) for n in range(WIDE)])
    gevent.pool.Pool(5).map(inner, ["%s pool %d" % (prefix, n) for n in range(WIDE)])
    for n in range(SERIAL // 8):
        one = greenlet.greenlet(lambda: bare("%s bare %d a" % (prefix, n), lambda: other))
        other = greenlet.greenlet(lambda: bare("%s bare %d b" % (prefix, n), lambda: one))
        one.switch()
        read(9, M(prefix + " main"))


if not LATE:
    ready()
workers = [threading.Thread(target=main, args=("hub %d" % n,)) for n in range(2)]
for worker in workers:
    worker.start()
main("hub main")
for worker in workers:
    worker.join()
finish()
