# SPDX-License-Identifier: Apache-2.0
"""trio, and anyio on both of its loops: tasks side by side and one after another."""

import anyio
import trio

SERIAL, WIDE = int(sys.argv[2]), int(sys.argv[3])


async def trio_work(name):
    read(9, M(name))
    await trio.sleep(0)
    await trio_inner(name)


async def trio_inner(name):
    async with trio.open_nursery() as nursery:
        read(9, M(name))
        nursery.start_soon(trio_child, name + "/child")
    read(9, M(name))


async def trio_child(name):
    read(9, M(name))
    await trio.sleep(0)
    read(9, M(name))


async def trio_main(prefix):
    for n in range(SERIAL):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_child, "%s serial %d" % (prefix, n))
    async with trio.open_nursery() as nursery:
        for n in range(WIDE):
            nursery.start_soon(trio_work, "%s wide %d" % (prefix, n))
    read(9, M(prefix + " main"))


async def anyio_work(name):
    read(9, M(name))
    await anyio.sleep(0)
    read(9, M(name))
    async with anyio.create_task_group() as group:
        read(9, M(name))
        group.start_soon(anyio_child, name + "/child")
    await anyio.to_thread.run_sync(in_thread, name + "/thread")
    read(9, M(name))


async def anyio_child(name):
    read(9, M(name))
    await anyio.sleep(0)
    read(9, M(name))


def in_thread(name):
    read(9, M())


async def anyio_main(prefix):
    for n in range(SERIAL):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio_child, "%s serial %d" % (prefix, n))
    async with anyio.create_task_group() as group:
        for n in range(WIDE):
            group.start_soon(anyio_work, "%s wide %d" % (prefix, n))
    read(9, M(prefix + " main"))


ready()
trio.run(trio_main, "trio")
anyio.run(anyio_main, "anyio asyncio", backend="asyncio")
anyio.run(anyio_main, "anyio trio", backend="trio")
finish()
