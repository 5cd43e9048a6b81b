# SPDX-License-Identifier: Apache-2.0
"""Mangled names of real compilers, read as their languages write them; and names made to hurt."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.symbols.demangling import qualified, readable
from kernelspan_agent.process.symbols.reading import demangled

# name, demangled, without parameters
NAMES = [
    ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int>>::push_back(int const&)",
     "std::vector<int, std::allocator<int>>::push_back"),
    ("_ZNSo5flushEv", "std::ostream::flush()", "std::ostream::flush"),
    ("_ZNK4llvm6Module11getFunctionENS_9StringRefE", "llvm::Module::getFunction(llvm::StringRef) const",
     "llvm::Module::getFunction"),
    ("_Znwm", "operator new(unsigned long)", "operator new"),
    ("_ZN1AclEi", "A::operator()(int)", "A::operator()"),
    ("_ZNK1AcvbEv", "A::operator bool() const", "A::operator bool"),
    ("_ZlsRSoRK1A", "operator<<(std::ostream&, A const&)", "operator<<"),
    ("_Z5twiceIiET_S0_", "int twice<int>(int)", "twice<int>"),
    ("_ZN12_GLOBAL__N_16hiddenEv", "(anonymous namespace)::hidden()", "(anonymous namespace)::hidden"),
    ("_ZN12_GLOBAL__N_16hiddenE", "(anonymous namespace)::hidden", "(anonymous namespace)::hidden"),
    ("_Z3fooi.cold", "foo(int) (.cold)", ""),
    ("_ZN2ns3FooD2Ev", "ns::Foo::~Foo()", "ns::Foo::~Foo"),
    ("_Z1fPFivE", "f(int (*)())", "f"),
    ("_RNvC6_123foo3bar", "123foo::bar", "123foo::bar"),
    ("_RINvNtC3std3mem8align_ofjdE", "std::mem::align_of::<usize, f64>", "std::mem::align_of::<usize, f64>"),
    ("_ZN4core3ptr46drop_in_place$LT$alloc..vec..Vec$LT$u8$GT$$GT$17h0123456789abcdefE",
     "core::ptr::drop_in_place<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place<alloc::vec::Vec<u8>>"),
    ("_ZN60_$LT$alloc..string..String$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789abcdefE",
     "<alloc::string::String as core::fmt::Display>::fmt", "<alloc::string::String as core::fmt::Display>::fmt"),
    ("_ZN7example4main28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", "example::main::{{closure}}",
     "example::main::{{closure}}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shown", "short"), NAMES, ids=lambda value: value[:30])
def test_names_of_real_compilers(name: str, shown: str, short: str) -> None:
    """C++, Rust's legacy scheme and its v0."""
    (found,) = demangled([name.encode()])
    assert readable(name.encode(), found) == shown
    assert qualified(shown) == short


def test_what_is_not_mangled_stays() -> None:
    """In the order they were asked in."""
    assert demangled([b"main", b"_Z3fooi", b"_Znonsense", b"", b"_Z\xff", b"_R"]) == ["", "foo(int)", "", "", "", ""]


def substitution(index: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    while index > 0:
        index -= 1
        text = digits[index % 36] + text
        index //= 36
    return f"S{text}_"


def bomb(depth: int) -> bytes:
    """A name of some 10 letters a level whose demangled form doubles with each."""
    parts = "".join(f"S_I{substitution(level)}{substitution(level)}E" for level in range(1, depth))
    return f"_Z1f1TIiiE{parts}".encode()


def test_names_made_to_hurt_hurt_a_child_only() -> None:
    """They stay as they are, their neighbours are read, and our own memory does not grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = [b"_Z1ai", bomb(28), b"_Z1bi", b"_Z1f" + b"P" * 16_000 + b"i", b"_Z1ci", b"_Z1f" + b"P" * 200_000 + b"i"]
    found = demangled(names)
    assert (found[0], found[1], found[2], found[4], found[5]) == ("a(int)", "", "b(int)", "c(int)", "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_a_name_that_kills_is_stepped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep recursion ends the child (a longer name than is let through); another goes on behind it."""
    monkeypatch.setattr("kernelspan_agent.process.symbols.reading.MAX_MANGLED_BYTES", 1 << 20)
    killer = b"_Z1f" + b"P" * 400_000 + b"i"
    assert demangled([b"_Z1ai", killer, b"_Z1bi"]) == ["a(int)", "", "b(int)"]
    assert demangled([killer] * 9 + [b"_Z1bi"]) == [""] * 10  # such a file is given up


@given(st.text(max_size=40))
def test_any_text_has_a_form(text: str) -> None:
    """No text breaks what reads demangled names."""
    assert isinstance(qualified(text), str)
    assert isinstance(readable(b"_ZN" + text.encode("utf-8", "surrogatepass"), text + "::h0123456789abcdef"), str)
