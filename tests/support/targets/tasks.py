# SPDX-License-Identifier: Apache-2.0
"""asyncio: tasks side by side, one after another, named and not, nested, in groups; operations bear their task's name."""

import asyncio

SERIAL, WIDE = int(sys.argv[2]), int(sys.argv[3])


if "uvloop" in sys.argv:
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def inner(name):
    read(9, M(name))
    await asyncio.sleep(0)
    read(9, M(name))


async def work(name, depth=2):
    read(9, M(name))
    await inner(name)
    if depth:
        await asyncio.shield(asyncio.ensure_future(work(name + "/shielded", 0)))
        read(9, M(name))
    await asyncio.wait_for(asyncio.sleep(0), 10)
    read(9, M(name))


async def steps(name):
    async for _ in generate(name):
        read(9, M(name))
        await asyncio.sleep(0)


async def generate(name):
    for _ in range(3):
        read(9, M(name))
        await asyncio.sleep(0)
        yield 1


async def one_read(name):
    read(9, M(name))


async def main(prefix):
    for n in range(SERIAL):  # the same addresses again and again
        await asyncio.ensure_future(one_read("%s serial %d" % (prefix, n)))
    for n in range(SERIAL // 8):
        task = asyncio.ensure_future(inner("%s named %d" % (prefix, n)))
        if hasattr(task, "set_name"):
            task.set_name("consumer" if n % 2 else "consumer-%d" % n)
        await task
        read(9, M(prefix + " main"))
    for n in range(SERIAL // 8):
        task = asyncio.ensure_future(steps("%s steps %d" % (prefix, n)))
        if n % 5 == 0:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            await task
    await asyncio.gather(*(work("%s wide %d" % (prefix, n)) for n in range(WIDE)))
    await asyncio.gather(*(steps("%s wide steps %d" % (prefix, n)) for n in range(WIDE)))
    if hasattr(asyncio, "TaskGroup"):
        async with asyncio.TaskGroup() as group:
            for n in range(WIDE):
                group.create_task(work("%s group %d" % (prefix, n)), name="worker" if n % 2 else None)
            read(9, M(prefix + " main"))
    read(9, M(prefix + " main"))


def generators(name):
    def rows():
        for _ in range(20):
            read(9, M(name))
            yield 1

    for _ in rows():
        read(9, M(name))


def thread(prefix):
    asyncio.run(main(prefix))
    generators(prefix + " thread")


ready()
workers = [threading.Thread(target=thread, args=("loop %d" % n,)) for n in range(2)]
for worker in workers:
    worker.start()
thread("loop main")
for worker in workers:
    worker.join()
finish()
