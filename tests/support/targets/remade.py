# SPDX-License-Identifier: Apache-2.0
"""Code and name spaces that are made, used for one operation and dropped, so that others get their addresses."""

import gc
import importlib
import tempfile
import types

ROUNDS = int(sys.argv[2])


def use(function, *arguments):
    return function(*arguments)


def lambdas(n):
    # Made by exec, called from here: the same address again and again, with another name, line, file or text.
    space = {"read": read, "M": M}
    text = "\n" * (n % 7) + "x%d = lambda: read(9, M())" % (n % 5)
    exec(compile(text, "/kernelspan/file%d.py" % (n % 3), "exec"), space)
    use(space["x%d" % (n % 5)])
    named = {}
    exec("\n" * (n % 4) + "def same(read, M):\n" + "\n" * (n % 3) + "    return read(9, M())", named)
    use(named["same"], read, M)


def layouts(n):
    # One name, file, first line and size of the line table; only a line in the middle lies elsewhere.
    before, at = n % 11, n % 13
    body = ["    a = %d" % i for i in range(24)]
    body.insert(8 + at, "")
    body.insert(0, "    return read(9, M())" if before == 10 else "    b = 0")
    body.append("    return read(9, M())")
    space = {"__name__": "layouts", "read": read, "M": M}
    exec(compile("def layout():\n" + "\n".join(body), "/kernelspan/layouts.py", "exec"), space)
    use(space["layout"])


def same_text(n):
    # The very same text as another file, and the same file with another text.
    for file in ("/kernelspan/one.py", "/kernelspan/two.py", "/kernelspan/other/one.py"):
        space = {"__name__": "same_text", "read": read, "M": M}
        exec(compile("def f():\n    return read(9, M())\nf()", file, "exec"), space)


ONE_CODE = compile("def f():\n    return read(9, M())\nf()\n[read(9, M()) for _ in (1,)]", "/kernelspan/one_code.py", "exec")


def name_spaces(n):
    # One code that lives on, run in name spaces that do not.
    exec(ONE_CODE, {"__name__": "space%d" % (n % 17), "read": read, "M": M})
    exec(ONE_CODE, {"read": read, "M": M, "__name__": "late%d" % n})
    exec(ONE_CODE, {"read": read, "M": M})
    exec(ONE_CODE, {"__name__": 12, "read": read, "M": M})
    exec(ONE_CODE, {"__name__": "a.very.long.package.name.with.many.parts.module%d" % (n % 5), "read": read, "M": M})
    module = types.ModuleType("module%d" % (n % 3))
    module.__dict__.update({"read": read, "M": M})
    exec(ONE_CODE, module.__dict__)
    module.__name__ = "renamed%d" % n
    exec(ONE_CODE, module.__dict__)
    types.FunctionType(ONE_CODE.co_consts[0], {"__name__": "function%d" % n, "read": read, "M": M})()


def mutable(n):
    def f():
        return read(9, M())
    def g():
        x = 1
        return read(9, M())
    f()
    f.__code__ = g.__code__
    f()
    f.__code__ = g.__code__.replace(co_name="h%d" % (n % 3), co_firstlineno=1000 + n % 5)
    f()
    del f, g


class Reloaded:
    def __init__(self):
        self.folder = tempfile.mkdtemp(dir=os.path.dirname(_OUT))
        sys.path.insert(0, self.folder)
        sys.dont_write_bytecode = True
        self.module = None

    def turn(self, n):
        with open(self.folder + "/reloaded_module.py", "w", encoding="utf-8") as file:
            file.write("\n" * (n % 5) + "from __main__ import M, read\n")
            file.write("def first():\n" + "    a = 1\n" * (n % 3) + "    return read(9, M())\n")
            file.write("def second():\n    a = 1\n    b = 2\n    c = 3\n    d = 4\n    e = 5\n    f = 6\n")
            file.write("    g = 7\n    h = 8\n" + "\n" * (n % 4) + "    i = 9\n    j = 10\n    return read(9, M())\n")
            file.write("class Kind:\n    def third(self):\n        return [read(9, M()) for _ in range(2)]\nread(9, M())\n")
        importlib.invalidate_caches()
        if self.module is None:
            self.module = importlib.import_module("reloaded_module")
        else:
            self.module = importlib.reload(self.module)
        self.module.first()
        self.module.second()
        self.module.Kind().third()
        if n % 3 == 0:
            del sys.modules["reloaded_module"]
            self.module = None


def many_modules(n):
    # A generated module each time, as code generators and template engines make them.
    name = "generated_%d" % n
    module = types.ModuleType(name)
    module.__dict__.update({"read": read, "M": M})
    text = "def render():\n    return read(9, M())\nclass C%d:\n    def run(self):\n        return render()\nC%d().run()" % (n, n)
    exec(compile(text, "/kernelspan/generated/%d.py" % n, "exec"), module.__dict__)


def same_place(n):
    # One file and line; only the class that the function belongs to, or the directory of its file, is another.
    for name in ("One", "Two"):
        space = {"__name__": "same_place", "read": read, "M": M}
        exec(compile("class %s:\n    def run(self): return read(9, M())\n%s().run()" % (name, name), "/x.py", "exec"), space)
    for folder in ("app1", "app2"):
        file = "/kernelspan/" + folder + "/a/folder/of/the/same/name/and/a/module.py"
        exec(compile("def f(): return read(9, M())\nf()", file, "exec"), {"__name__": "m", "read": read, "M": M})
    for file in ("/\u00e9\u00e9/one.py", "/\u00e8\u00e9/two.py"):
        exec(compile("def f(): return read(9, M())\nf()", file, "exec"), {"__name__": "m", "read": read, "M": M})


def worker(first):
    for n in range(first, ROUNDS, 2):
        for kind in (lambdas, layouts, same_text, name_spaces, mutable, same_place, many_modules):
            kind(n)


ready()
reloaded = Reloaded()
for n in range(ROUNDS):
    for kind in (lambdas, layouts, same_text, name_spaces, mutable, same_place, many_modules, reloaded.turn):
        kind(n)
    if n % 50 == 0:
        gc.collect()
workers = [threading.Thread(target=worker, args=(first,)) for first in range(2)]
for one in workers:
    one.start()
for one in workers:
    one.join()
finish()
