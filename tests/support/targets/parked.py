# SPDX-License-Identifier: Apache-2.0
"""Threads that sleep for as long as somebody needs to look at them."""

import time

SECONDS = float(sys.argv[2])


def down(n):
    if n:
        return [down(n - 1) for _ in (1,)]
    return sorted([1], key=lambda _: time.sleep(SECONDS) or 0)


class Sleeper:
    def generator(self, n):
        yield down(n)

    def run(self, n):
        return list(self.generator(n))


ready()
workers = [threading.Thread(target=Sleeper().run, args=(n,)) for n in range(5)]
for worker in workers:
    worker.start()
os.write(1, b"asleep\n")
down(7)
for worker in workers:
    worker.join()
