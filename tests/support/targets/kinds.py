# SPDX-License-Identifier: Apache-2.0
"""Every kind of Python frame there is, in five threads and an event loop each."""

import asyncio
import collections
import concurrent.futures.thread
import contextlib
import functools

ROUNDS = int(sys.argv[2])


def recursion(n):
    read(9, M())
    if n:
        recursion(n - 1)
        read(9, M())


def generator(n):
    for _ in range(n):
        yield read(9, M())
    yield from (read(9, M()) for _ in range(n))


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        read(9, M())
        return function(*args)

    return wrapper


class Orders:
    class Inner:
        @decorated
        def load(self, key):
            return sorted(key, key=lambda value: read(9, M()) or value)

        @classmethod
        def many(cls, n):
            return [cls().load(range(2)) or read(9, M()) for _ in range(n)]

        @property
        def total(self):
            return {k: read(9, M()) for k in range(2)}, {read(9, M()) for _ in range(2)}

    def __lt__(self, other):
        read(9, M())
        return id(self) < id(other)

    def __del__(self):
        read(9, M())

    def __getattr__(self, name):
        read(9, M())
        return name


def callbacks():
    sorted([Orders(), Orders(), Orders()])
    list(map(lambda x: read(9, M()), range(2)))
    functools.reduce(lambda a, b: read(9, M()), range(3))
    max(range(3), key=lambda x: read(9, M()))
    collections.OrderedDict.fromkeys(x for x in generator(1))
    import re
    re.sub("a", lambda match: str(read(9, M())), "aa")
    json.loads('{"a": {"b": 1}}', object_hook=lambda found: read(9, M()))
    os.path.exists(Named())



@contextlib.contextmanager
def manager():
    read(9, M())
    try:
        yield read(9, M())
    except KeyError:
        read(9, M())
    finally:
        read(9, M())


def jumps(n):
    with manager():
        while n:
            n -= 1
            if n % 3 == 0:
                read(9, M())
                continue
            try:
                read(9, M())
                raise ValueError
            except ValueError:
                read(9, M())
            finally:
                read(9, M())
        raise KeyError
    read(9, M()) ; read(9, M())

    long = [
        read(9, M()),
        [read(9, M())
         for _ in range(2)],
        (lambda:
            read(9, M()))(),
    ]
    del long
    if read(9, M()): pass
    else: read(9, M())


def made():
    for source, file in (
        ("read(9, M())\ndef made_up():\n\n  read(9, M())\nmade_up()", "<made>"),
        ("\n" * 70000 + "def f():\n return read(9, M())\nf()", "/no/such é\n.py"),
        ("def f():\n return read(9, M())\nf()", "/" + "very long name/" * 200 + ".py"),
        ("def " + "f" * 600 + "():\n return read(9, M())\n" + "f" * 600 + "()", "/long.py"),
        ("def " + "é" * 600 + "():\n return read(9, M())\n" + "é" * 600 + "()", "/" + "日本/" * 300 + "語.py"),
        ("def 関数():\n class 𝕂ind:\n  def ñ(self): return read(9, M())\n return 𝕂ind().ñ()\n関数()", "/日本/語.py"),
        ("def l(x):\n " + "x += 1\n " * 1000 + "return read(9, M())\nl(1)", "/long function.py"),
    ):
        for name in ("made.up", "日本.語", "m" * 400, None):
            space = {"read": read, "M": M}
            if name:
                space = dict({"__name__": name}, **space)
            exec(compile(source, file, "exec"), space)
    eval("read(9, M())")
    eval("[read(9, M()) for _ in range(2)]", {"read": read, "M": M})
    exec("class A:\n read(9, M())\n x = [read(9, M()) for _ in range(2)]")


async def agen(n):
    for _ in range(n):
        await asyncio.sleep(0)
        yield read(9, M())


async def task(n):
    read(9, M())
    async for _ in agen(n):
        read(9, M())
    [read(9, M()) async for _ in agen(2)]
    await asyncio.get_running_loop().run_in_executor(None, lambda: read(9, M()))
    asyncio.get_running_loop().call_soon(lambda: read(9, M()))
    return recursion(1)


async def tasks(n):
    await asyncio.gather(*(task(2) for _ in range(n)))


def everything(rounds):
    for _ in range(rounds):
        recursion(5)
        list(generator(3))
        Orders.Inner.many(2)
        Orders.Inner().total
        Orders().missing
        callbacks()
        jumps(6)
        asyncio.run(tasks(3))


class Made:
    def __init__(self, n):
        read(9, M())
        self.other = Made(n - 1) if n else None


def instances(n):
    for _ in range(n):  # until the interpreter has made calls of __init__ its own
        Made(2)


def deep(n):
    return deep(n - 1) if n else read(9, M())


ready()
sys.setrecursionlimit(5000)
workers = [threading.Thread(target=everything, args=(ROUNDS,)) for _ in range(4)]
for worker in workers:
    worker.start()
everything(ROUNDS)
for _ in range(3):
    made()
instances(50)
for worker in workers:
    worker.join()
for depth in (100, 126, 127, 200, 900):
    deep(depth)
read(9, M())
finish()
