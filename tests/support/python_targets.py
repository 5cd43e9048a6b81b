# SPDX-License-Identifier: Apache-2.0
"""Programs for the interpreters under test (3.8 to 3.15): each says of itself what we must find from outside."""

# What a thread's frames are, as JSON, and a park on the very line that said so.
DUMP = """
import sys, os, json, threading
def dump(frame):
    rows = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        rows.append([frame.f_globals.get("__name__", ""), name, code.co_filename, frame.f_lineno])
        frame = frame.f_back
    print(json.dumps({"thread": threading.get_ident(), "frames": rows}), flush=True)
    return True
"""

# Recursion, generators, coroutines, lambdas, C call-backs, methods, made code, odd names, imports, threads.
STACKS = (
    DUMP
    + """
import asyncio
def park():
    return dump(sys._getframe()) and os.read(0, 1)
class Orders:
    class Inner:
        def load(self, n):
            if n:
                return self.load(n - 1)
            return [
                x
                for x in self.rows()
            ]
        def rows(self):
            yield from self.more()
        def more(self):
            yield sorted([1], key=lambda value: (
                closure(value)
            ))
def closure(value):
    def in\u00ebr\u00fc_\u65e5\u672c():
        long_name()
        return 0
    return in\u00ebr\u00fc_\u65e5\u672c()
def long_name():
    globals()["f" * 300]()
space = {"__name__": "made.up", "park": park}
exec(compile("\\n" * 70000 + "def " + "f" * 300 + "():\\n  return (\\n\\n\\n   park())", "/no/such \\u00e9\\n.py", "exec"), space)
globals()["f" * 300] = space["f" * 300]
async def outer():
    return await middle()
async def middle():
    with threading.Lock():
        try:
            return Orders.Inner().load(2)
        finally:
            pass
def thread(n):
    if n: thread(n - 1)
    else: park()
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "parks_at_import":
            park()
sys.meta_path.insert(0, Finder())
def main():
    worker = threading.Thread(target=thread, args=(5,))
    worker.start()
    asyncio.run(outer())
    worker.join()
    try:
        import parks_at_import
    except ImportError:
        pass
    def bare(): return park()
    exec("bare()", {"bare": bare})
if __name__ == "__main__": main()
"""
)

# Tasks one after another, each stopping three times: in its first step, after a wake-up by a future, after its name
# was asked for. Then tasks whose names are the user's, and a coroutine that no task runs.
TASKS = """
import asyncio, os, sys
COUNT = int(sys.argv[1])
def stop(what):
    os.write(1, ("%s\\n" % (what,)).encode()); os.read(0, 1)
async def inner(what):
    stop(what)
async def one(expected):
    await inner(expected)
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future
    await inner(expected)
    if expected % 10 == 0:
        asyncio.current_task().get_name()
        await inner(expected)
async def named():
    await inner(0)
async def main():
    first = int(asyncio.current_task().get_name().split("-")[1])
    for index in range(COUNT):
        await asyncio.ensure_future(one(first + 1 + index))
    for name in ("consumer", "Task-", "Task-7x", "Task-07", "\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9"):
        await asyncio.create_task(named(), name=name)
asyncio.run(main())
coroutine = named()
try: coroutine.send(None)
except StopIteration: pass
os.write(1, b"end\\n")
"""

# Functions of the same shape, made, run once and dropped: the addresses of their code are used again.
DROPPED = (
    DUMP
    + """
def park():
    return dump(sys._getframe()) and os.read(0, 1)
for index in range(int(sys.argv[1])):
    space = {"__name__": "mod_%d" % index, "park": park}
    exec(compile("def name_%d():\\n return park()\\nname_%d()" % (index, index), "/tmp/mod_number_%d.py" % index, "exec"), space)
    del space
    space = {"__name__": "mod", "park": park}
    exec(compile("def name():\\n return park()\\nname()", "/tmp/mod_number_%d.py" % index, "exec"), space)
    del space
print("end", flush=True)
"""
)

# Line tables of the code objects of many modules, with each instruction's line as the interpreter's own dis has it.
LINES = """
import sys, json, dis, importlib, types
seen = 0
def lines(code):
    size = len(code.co_code)
    if hasattr(code, "co_lines"):
        return [[start, end, line or 0] for start, end, line in code.co_lines()]
    starts = list(dis.findlinestarts(code)) + [(size, 0)]
    return [[start, nxt, line] for (start, line), (nxt, _) in zip(starts, starts[1:])]
def show(code):
    global seen
    seen += 1
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    print(json.dumps([code.co_name, code.co_firstlineno, table.hex(), lines(code)]))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            show(constant)
for name in ("argparse", "asyncio.events", "asyncio.tasks", "ast", "decimal", "difflib", "email.message", "enum",
             "http.client", "inspect", "json.encoder", "logging", "pickle", "re", "tarfile", "typing", "_pydecimal"):
    try:
        module = importlib.import_module(name)
        with open(module.__file__, encoding="utf-8") as file:
            show(compile(file.read(), module.__file__, "exec"))
    except (ImportError, AttributeError, OSError):
        continue
odd = "x = 1\\n" + "\\n" * 5000 + "def f(a,\\n b=(\\n1)):\\n return [\\n a\\n for a in b\\n]\\n" + "y = (" + "\\n" * 300 + "1)\\n"
show(compile(odd, "odd", "exec"))
print(json.dumps(None))
"""
