import asyncio
import collections
import concurrent.futures.thread
import contextlib
import functools

ROUNDS = int(sys.argv[2])
access = os.access


def recursion(n):
    access(M(), 0)
    if n:
        recursion(n - 1)
        access(M(), 0)


def generator(n):
    for _ in range(n):
        yield access(M(), 0)
    yield from (access(M(), 0) for _ in range(n))


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        access(M(), 0)
        return function(*args)

    return wrapper


class Orders:
    class Inner:
        @decorated
        def load(self, key):
            return sorted(key, key=lambda value: access(M(), 0) or value)

        @classmethod
        def many(cls, n):
            return [cls().load(range(2)) or access(M(), 0) for _ in range(n)]

        @property
        def total(self):
            return {k: access(M(), 0) for k in range(2)}, {access(M(), 0) for _ in range(2)}

    def __lt__(self, other):
        access(M(), 0)
        return id(self) < id(other)

    def __del__(self):
        access(M(), 0)

    def __getattr__(self, name):
        access(M(), 0)
        return name


def callbacks():
    sorted([Orders(), Orders(), Orders()])
    list(map(lambda x: access(M(), 0), range(2)))
    functools.reduce(lambda a, b: access(M(), 0), range(3))
    max(range(3), key=lambda x: access(M(), 0))
    collections.OrderedDict.fromkeys(x for x in generator(1))
    import re
    re.sub("a", lambda match: str(access(M(), 0)), "aa")
    json.loads('{"a": {"b": 1}}', object_hook=lambda found: access(M(), 0))
    os.path.exists(Named())



@contextlib.contextmanager
def manager():
    access(M(), 0)
    try:
        yield access(M(), 0)
    except KeyError:
        access(M(), 0)
    finally:
        access(M(), 0)


def jumps(n):
    with manager():
        while n:
            n -= 1
            if n % 3 == 0:
                access(M(), 0)
                continue
            try:
                access(M(), 0)
                raise ValueError
            except ValueError:
                access(M(), 0)
            finally:
                access(M(), 0)
        raise KeyError
    access(M(), 0) ; access(M(), 0)

    long = [
        access(M(), 0),
        [access(M(), 0)
         for _ in range(2)],
        (lambda:
            access(M(), 0))(),
    ]
    del long
    if access(M(), 0): pass
    else: access(M(), 0)


def made():
    for source, file in (
        ("access(M(), 0)\ndef made_up():\n\n  access(M(), 0)\nmade_up()", "<made>"),
        ("\n" * 70000 + "def f():\n return access(M(), 0)\nf()", "/no/such é\n.py"),
        ("def f():\n return access(M(), 0)\nf()", "/" + "very long name/" * 200 + ".py"),
        ("def " + "f" * 600 + "():\n return access(M(), 0)\n" + "f" * 600 + "()", "/long.py"),
        ("def " + "é" * 600 + "():\n return access(M(), 0)\n" + "é" * 600 + "()", "/" + "日本/" * 300 + "語.py"),
        ("def 関数():\n class 𝕂ind:\n  def ñ(self): return access(M(), 0)\n return 𝕂ind().ñ()\n関数()", "/日本/語.py"),
        ("def l(x):\n " + "x += 1\n " * 1000 + "return access(M(), 0)\nl(1)", "/long function.py"),
    ):
        for name in ("made.up", "日本.語", "m" * 400, None):
            space = {"access": access, "M": M}
            if name:
                space = dict({"__name__": name}, **space)
            exec(compile(source, file, "exec"), space)
    eval("access(M(), 0)")
    eval("[access(M(), 0) for _ in range(2)]", {"access": access, "M": M})
    exec("class A:\n access(M(), 0)\n x = [access(M(), 0) for _ in range(2)]")


async def agen(n):
    for _ in range(n):
        await asyncio.sleep(0)
        yield access(M(), 0)


async def task(n):
    access(M(), 0)
    async for _ in agen(n):
        access(M(), 0)
    [access(M(), 0) async for _ in agen(2)]
    await asyncio.get_running_loop().run_in_executor(None, lambda: access(M(), 0))
    asyncio.get_running_loop().call_soon(lambda: access(M(), 0))
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


def deep(n):
    return deep(n - 1) if n else access(M(), 0)


ready()
sys.setrecursionlimit(5000)
workers = [threading.Thread(target=everything, args=(ROUNDS,)) for _ in range(4)]
for worker in workers:
    worker.start()
everything(ROUNDS)
for _ in range(3):
    made()
for worker in workers:
    worker.join()
for depth in (100, 126, 127, 200, 900):
    deep(depth)
access(M(), 0)
finish()
