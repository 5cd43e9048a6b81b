# SPDX-License-Identifier: Apache-2.0
"""Functions and static probes of real files, held against nm and readelf, and attached to: a count is the number of calls."""

from __future__ import annotations

import lzma
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import SymbolError
from kernelspan_agent.process.symbols import where
from kernelspan_agent.process.symbols.functions import Found, find_functions
from kernelspan_agent.process.symbols.usdt import StaticProbe, find_probe, list_probes, probes_of
from kernelspan_agent.process.symbols.usdt_arguments import Place
from tests.support.compiled import compiled, nm, run
from tests.support.uprobes import counted

CALLS = 97
HEADERS = f"-I{Path(__file__).resolve().parents[1] / 'support' / 'programs'}"
PROGRAM = """
#include <stdio.h>
static __attribute__((noinline)) int helper(int x) { __asm__ volatile(""); return x + 1; }
__attribute__((noinline)) int exported(int x) { __asm__ volatile(""); return helper(x) + helper(x); }
int main(void) { int sum = 0; for (int i = 0; i < 97; i++) sum += exported(i); printf("%d\\n", sum); }
"""
UNIT = '__attribute__((noinline)) static int helper(int x) { __asm__ volatile(""); return x; }\nint NAME(int x) { return helper(x); }\n'
IFUNC = """
static int fast(int x) { return x; }
static void *choose(void) { return fast; }
int chosen(int) __attribute__((ifunc("choose")));
int main(void) { return chosen(0); }
"""
CPP = """
#include <vector>
namespace ns {
struct Base { virtual ~Base() {} virtual int quote(int) = 0; };
struct Other { virtual ~Other() {} virtual int other() { return 1; } };
template <typename T> struct Engine : Other, Base {
  std::vector<T> v;
  __attribute__((noinline)) int quote(int x) override { __asm__ volatile(""); return x + (int)v.size(); }
  __attribute__((noinline)) int quote(const char *) { __asm__ volatile(""); return 7; }
  __attribute__((noinline)) bool operator()(int x) const { __asm__ volatile(""); return x; }
};
}
namespace { __attribute__((noinline)) int hidden(int x) { __asm__ volatile(""); return x; } }
int main() {
  ns::Engine<int> e; ns::Base *b = &e; int sum = 0;
  for (int i = 0; i < 97; i++) sum += b->quote(i) + e.quote("a") + e(i) + hidden(i);
  return sum == 0;
}
"""


def find(path: Path | str, *texts: str, root: str = "/") -> list[Found]:
    with where.open_path(str(path), root) as binary:
        return find_functions(binary, texts, 100_000)


def one(path: Path | str, text: str, root: str = "/") -> tuple[int, str]:
    """Offset and source of the one function of that name."""
    (found,) = find(path, text, root=root)
    assert found.problem is None
    (function,) = found.functions
    return function.offset, function.source


def strip(path: Path, *flags: str, name: str = "stripped") -> Path:
    made = path.with_name(name)
    run("strip", *flags, "-o", str(made), str(path))
    return made


@pytest.mark.parametrize(
    "path", ["/usr/bin/python3", "/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"]
)
def test_a_systems_files_have_the_functions_that_nm_shows(path: str) -> None:
    """Every exported function by its address, but those that are chosen when it is loaded."""
    real = os.path.realpath(path)
    with where.open_path(real) as binary:
        (found,) = find_functions(replace(binary, root=""), ["*"], 100_000)  # the file alone, not its debug file
    places = {function.address for function in found.functions}
    assert found.matched == len(places)
    rows = run("readelf", "-W", "--dyn-syms", real).splitlines()
    assert places == {int(row.split()[1], 16) for row in rows if " FUNC " in row and " UND " not in row}
    by_name = dict(nm(Path(real), "-D"))
    (named,) = find(real, next(name for name, at in sorted(by_name.items()) if at in places))
    assert named.functions[0].address == by_name[named.text]


def test_functions_are_where_they_run(tmp_path: Path) -> None:
    """A count at the offset is the number of calls: whole, stripped, position-independent or not."""
    for flags in (["-O1"], ["-O1", "-no-pie"], ["-O1", "-static"], ["-O1", "-Wl,-z,separate-code"]):
        program = compiled(tmp_path, PROGRAM, *flags)
        for name, calls in (("exported", CALLS), ("helper", 2 * CALLS)):
            offset, source = one(program, name)
            assert source == "symtab"
            with counted(str(program), offset) as counter:
                run(str(program))
                assert counter.count() == calls


def test_stripped_files(tmp_path: Path) -> None:
    """Exports stay, everything else is said to be gone; a debug file by build id or by link brings it back."""
    program = compiled(tmp_path, PROGRAM, "-O1", "-rdynamic", "-Wl,--build-id")
    whole, _ = one(program, "helper")
    stripped = strip(program)
    assert one(stripped, "exported") == (one(program, "exported")[0], "dynsym")
    (found,) = find(stripped, "helper")
    assert found.problem is not None
    identity = re.search(r"Build ID: (\w+)", run("readelf", "-n", str(program)))
    assert identity is not None
    assert found.problem.reason == "SymbolStripped"
    assert f"/usr/lib/debug/.build-id/{identity[1][:2]}/{identity[1][2:]}.debug" in found.problem.hint

    tree = tmp_path / "tree"
    place = tree / "usr/lib/debug/.build-id" / identity[1][:2] / f"{identity[1][2:]}.debug"
    place.parent.mkdir(parents=True)
    (tree / "app").mkdir()
    (tree / "app/program").write_bytes(stripped.read_bytes())
    run("objcopy", "--only-keep-debug", str(program), str(place))
    assert one("/app/program", "helper", str(tree)) == (whole, "debug file")
    assert one("/app/program", "exported", str(tree))[0] == one(program, "exported")[0]

    other = compiled(tmp_path, PROGRAM.replace("97", "98"), "-O1", "-Wl,--build-id", name="other")
    run("objcopy", "--only-keep-debug", str(other), str(place))
    assert find("/app/program", "helper", root=str(tree))[0].problem is not None  # another file's


@pytest.mark.parametrize("folder", ["app", "app/.debug", "usr/lib/debug/app"])
def test_debug_links(tmp_path: Path, folder: str) -> None:
    """Without a build id the file is known by its sum; a changed one is not believed."""
    program = compiled(tmp_path, PROGRAM, "-O1", "-Wl,--build-id=none")
    whole, _ = one(program, "helper")
    tree = tmp_path / "tree"
    (tree / folder).mkdir(parents=True)
    (tree / "app").mkdir(exist_ok=True)
    debug = tree / folder / "program.debug"
    run("objcopy", "--only-keep-debug", str(program), str(debug))
    run("strip", "-o", str(tree / "app/program"), str(program))
    run("objcopy", f"--add-gnu-debuglink={debug}", str(tree / "app/program"))
    assert one("/app/program", "helper", str(tree)) == (whole, "debug file")
    with debug.open("ab") as file:
        file.write(b"x")
    assert find("/app/program", "helper", root=str(tree))[0].problem is not None


def test_mini_debug_info(tmp_path: Path) -> None:
    """As Fedora packs it; one that unpacks to more than is allowed, and one that is none, are refused."""
    program = compiled(tmp_path, PROGRAM, "-O1", "-rdynamic")
    whole, _ = one(program, "helper")
    small, packed = tmp_path / "small", tmp_path / "packed"
    run("objcopy", "-S", "--remove-section", ".gdb_index", "--keep-symbol=helper", str(program), str(small))
    run("objcopy", "--only-keep-debug", str(small), str(small))
    for content, problem in (
        (lzma.compress(small.read_bytes()), ""),
        (lzma.compress(bytes(200 << 20), preset=0), "holds more than"),
        (b"nothing of xz", "cannot be unpacked"),
        (lzma.compress(small.read_bytes())[:-40], "ends too early"),
    ):
        packed.write_bytes(content)
        stripped = strip(program)
        run("objcopy", f"--add-section=.gnu_debugdata={packed}", str(stripped))
        if problem:
            with pytest.raises(Exception, match=problem):
                find(stripped, "helper")
        else:
            assert one(stripped, "helper") == (whole, "minidebuginfo")


def test_static_functions_of_one_name(tmp_path: Path) -> None:
    """All of them, as nm has them."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.c").write_text(UNIT.replace("NAME", name))
    units = [str(tmp_path / f"{name}.c") for name in ("a", "b", "c")]
    program = compiled(tmp_path, "int a(int),b(int),c(int);int main(void){return a(0)+b(0)+c(0);}", "-O1", *units)
    (found,) = find(program, "helper")
    assert sorted(each.address for each in found.functions) == sorted(
        at for name, at in nm(program) if name == "helper"
    )
    assert found.matched == 3


def test_an_indirect_function_of_a_real_linker(tmp_path: Path) -> None:
    """Refused by its name; the function that is chosen is found."""
    program = compiled(tmp_path, IFUNC, "-O0")
    chosen, fast = find(program, "chosen", "fast")
    assert chosen.problem is not None
    assert "IFUNC" in str(chosen.problem)
    assert fast.matched == 1


def test_cpp(tmp_path: Path) -> None:
    """Functions as the source writes them, and each is passed as often as it is called: a thunk is none of them."""
    program = compiled(tmp_path, CPP, "-O1", compiler="g++")
    for text, calls in {
        "ns::Engine<int>::quote(int)": CALLS,
        "ns::Engine<int>::quote(char const*)": CALLS,
        "ns::Engine<int>::operator()": CALLS,
        "(anonymous namespace)::hidden": CALLS,
    }.items():
        offset, _ = one(program, text)
        with counted(str(program), offset) as counter:
            run(str(program))
            assert (text, counter.count()) == (text, calls)
    (found,) = find(program, "ns::Engine<int>::quote")
    assert {each.demangled for each in found.functions} == {
        "ns::Engine<int>::quote(int)",
        "ns::Engine<int>::quote(char const*)",
    }


def test_static_probes_are_those_that_readelf_shows() -> None:
    """Of this machine's python: names, places, semaphores, arguments."""
    path = os.path.realpath("/usr/bin/python3")
    said = run("readelf", "-nW", path)
    wanted = re.findall(
        r"Provider: (\S+)\s+Name: (\S+)\s+Location: (\S+), Base: (\S+), Semaphore: (\S+)\s+Arguments: ?(.*)", said
    )
    with where.open_path(path) as binary:
        probes, count = list_probes(binary)
    found = sorted((probe.provider, probe.name, site.address, site.text) for probe in probes for site in probe.sites)
    assert found == sorted((provider, name, int(at, 16), text) for provider, name, at, _, _, text in wanted)
    assert count == len({(provider, name) for provider, name, *_ in wanted})
    assert all(
        argument.place is not Place.UNKNOWN for probe in probes for site in probe.sites for argument in site.arguments
    )


def test_a_static_probe_is_raised_and_passed(tmp_path: Path) -> None:
    """Python's collector runs as often as the probe is passed; the semaphore is raised while it is attached, and only then."""
    path = os.path.realpath("/usr/bin/python3")
    with where.open_path(path) as binary:
        probe = find_probe(binary, "python", "gc__start")
        if not probe.sites:
            pytest.fail("python was built without probes")
        (site,) = probe.sites
        script = tmp_path / "collects.py"
        command = [path, "-S", "-E", "-I", str(script)]
        with counted(binary.attach_path, site.offset, site.semaphore_offset) as counter:
            script.write_text("import gc\ngc.disable()\n")
            subprocess.run(command, check=True)
            base = counter.count()  # what start and end collect
            script.write_text(f"import gc\ngc.disable()\nfor _ in range({CALLS}): gc.collect()\n")
            subprocess.run(command, check=True)
            assert counter.count() - 2 * base == CALLS
        with counted(binary.attach_path, site.offset) as counter:
            subprocess.run(command, check=True)
            assert counter.count() == 0  # without the semaphore the program goes round it


OPERANDS = """
#include "static_probe.h"
static volatile int total; static long many[64];
static inline __attribute__((always_inline)) int step(int x, long *p) {
  PROBE("step", "-4@%0 8@%1 -4@%2 -8@%3", "nor"(x), "nor"(p[x & 7]), "nor"(total), "nor"(7L));
  return x + (int)p[x & 7];
}
int main(int count, char **v) {
  long here[8] = {count}; int sum = 0;
  for (int i = 0; i < 97; i++) sum += step(i, many + i % 50) + step(sum, here);
  return sum == 1;
}
"""
LIBRARY = """
#include "static_probe.h"
int passed(int x) { PROBE("loaded", "-4@%0", "nor"(x)); return x; }
"""
LOADS = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **arguments) {
  getchar();
  int (*passed)(int) = (int (*)(int))dlsym(dlopen(arguments[1], RTLD_NOW), "passed");
  puts("loaded"); fflush(stdout); getchar();
  for (int i = 0; i < 97; i++) passed(i);
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("kind", ["-no-pie", "-pie"])
def test_operands_of_a_compiler(tmp_path: Path, level: str, kind: str) -> None:
    """Whatever places it chose, each is understood; every site is passed."""
    program = compiled(tmp_path, OPERANDS, level, kind, HEADERS)
    with where.open_path(str(program)) as binary, ExitStack() as stack:
        probe = find_probe(binary, "mine", "step")
        assert len(probe.sites) >= 2
        for site in probe.sites:
            assert len(site.arguments) == 4
            assert [(each.text, each.problem) for each in site.arguments if each.problem] == []
            assert (site.arguments[3].place, site.arguments[3].value) == (Place.CONSTANT, 7)
        counters = [stack.enter_context(counted(binary.attach_path, site.offset)) for site in probe.sites]
        run(str(program))
        assert sum(counter.count() for counter in counters) == 2 * CALLS


def test_a_probe_of_a_library_that_is_loaded_later(tmp_path: Path) -> None:
    """Auto: the executable, then what is loaded by now."""
    library = compiled(tmp_path, LIBRARY, "-shared", "-fPIC", "-O1", HEADERS, name="late.so")
    program = compiled(tmp_path, LOADS, "-O1", "-ldl")
    with subprocess.Popen([program, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        process = procfs.open_process(child.pid)
        with pytest.raises(SymbolError, match="no static probe mine:loaded"):
            list(probes_of(process, where.AUTO, "mine", "loaded"))
        child.stdin.write("x")
        child.stdin.flush()
        assert child.stdout.readline() == "loaded\n"
        for count, (binary, probe) in enumerate(probes_of(process, where.AUTO, "mine", "loaded")):
            assert (count, binary.path) == (0, str(library))
            with counted(binary.attach_path, probe.sites[0].offset) as counter:
                child.stdin.close()
                child.wait()
                assert counter.count() == CALLS


def _probes(path: str) -> list[StaticProbe]:
    with where.open_path(path) as binary:
        return list_probes(binary)[0]


def test_other_interpreters_of_this_machine() -> None:
    """libpython of several versions, where they have probes."""
    for path in {os.path.realpath(sys.executable), "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"}:
        if Path(path).exists():
            assert all(probe.sites for probe in _probes(path))
