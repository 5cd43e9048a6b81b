# SPDX-License-Identifier: Apache-2.0
"""Whose a Go function is, by the module list that its program bears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Library, Origin
from kernelspan_agent.runtimes.go.modules import Modules, package_of

LIST = """\
path\tshop.example/checkout/cmd/server
mod\tshop.example/checkout\t(devel)\t
dep\tgithub.com/Azure/go\tv1.2.3\th1:a=
dep\tgithub.com/Azure/go/sub\tv0.1.0+incompatible\th1:b=
dep\tgopkg.in/yaml.v3\tv3.0.1\th1:c=
dep\tgithub.com/old/name\tv1.0.0
=>\tgithub.com/new/name\tv1.1.0\th1:d=
dep\tgithub.com/here/it\tv1.0.0
=>\t../it\t
build\t-compiler=gc
"""


@pytest.mark.parametrize(
    ("function", "package"),
    [
        ("main.main", "main"),
        ("main.(*T).M.func1", "main"),
        ("net/http.(*conn).serve", "net/http"),
        ("gopkg.in/yaml%2ev3.(*Decoder).Decode", "gopkg.in/yaml.v3"),
        ("github.com/a/b.F[go.shape.struct { github.com/c/d.X int }]", "github.com/a/b"),
        ("github.com/a/b.(*L[...]).F", "github.com/a/b"),
        ("slices.SortFunc[...]", "slices"),
        ("go.etcd.io/etcd/pkg/v3/ioutil.(*PageWriter).flush", "go.etcd.io/etcd/pkg/v3/ioutil"),
        ("glob..func1", "glob"),
        ("type:.eq.github.com/a/b.T", ""),
        ("go:buildid", ""),
        ("_rt0_amd64_linux", ""),
        ("gosave_systemstack_switch", ""),
        ("", ""),
    ],
)
def test_packages_of_functions(function: str, package: str) -> None:
    """The path before the last part's first dot, with its escaped dots."""
    assert package_of(function) == package


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("main", None),
        ("shop.example/checkout/internal/pay", None),
        ("shop.example/checkout_test", None),
        ("github.com/Azure/go", ("github.com/Azure/go", "v1.2.3", "pkg:golang/github.com/azure/go@v1.2.3")),
        ("github.com/Azure/go/x/y", ("github.com/Azure/go", "v1.2.3", "pkg:golang/github.com/azure/go@v1.2.3")),
        (
            "github.com/Azure/go/sub/z",
            (
                "github.com/Azure/go/sub",
                "v0.1.0+incompatible",
                "pkg:golang/github.com/azure/go/sub@v0.1.0%2Bincompatible",
            ),
        ),
        ("gopkg.in/yaml.v3", ("gopkg.in/yaml.v3", "v3.0.1", "pkg:golang/gopkg.in/yaml.v3@v3.0.1")),
        ("github.com/old/name/p", ("github.com/new/name", "v1.1.0", "pkg:golang/github.com/new/name@v1.1.0")),
        ("github.com/here/it", ("github.com/here/it", "", "pkg:golang/github.com/here/it")),
    ],
)
def test_owners(package: str, owner: tuple[str, str, str] | None) -> None:
    """The module with the longest path; what stands in for it; the program's own."""
    found = Modules.read(LIST).owner(package, "/any/file.go", "/usr/lib/go/src")
    assert found == ((Origin.LIBRARY, Library(*owner)) if owner else (Origin.APP, None))


@pytest.mark.parametrize(
    ("package", "origin"),
    [
        ("net/http", Origin.RUNTIME),
        ("vendor/golang.org/x/net/idna", Origin.RUNTIME),
        ("", Origin.RUNTIME),
        ("github.com/Azure/golang", Origin.UNKNOWN),  # no listed module's
        ("shop.example/checkoutmore", Origin.UNKNOWN),
    ],
)
def test_what_no_module_owns(package: str, origin: Origin) -> None:
    """The standard library's paths have no dot in their first part; of others nothing is said."""
    assert Modules.read(LIST).owner(package, "/f.go", "") == (origin, None)


def test_programs_without_a_list() -> None:
    """The standard library is where package runtime is; where that is not known, only runtime itself is certain."""
    modules = Modules.read("")
    assert modules.owner("main", "/w/main.go", "/go/src") == (Origin.APP, None)
    assert modules.owner("os", "/go/src/os/file.go", "/go/src") == (Origin.RUNTIME, None)
    assert modules.owner("mylib", "/w/src/mylib/x.go", "/go/src") == (Origin.UNKNOWN, None)
    assert modules.owner("os", "os/file.go", "") == (Origin.UNKNOWN, None)
    assert modules.owner("runtime", "runtime/proc.go", "") == (Origin.RUNTIME, None)


@given(st.text(), st.text(), st.text())
def test_any_text(text: str, package: str, function: str) -> None:
    """Whatever stands there, there is an answer."""
    Modules.read(text).owner(package, text, function)
    package_of(function)
