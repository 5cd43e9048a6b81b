# SPDX-License-Identifier: Apache-2.0
"""What a probe on user code comes to in one file: for the thread of `files`, and for who asks of this machine's own files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NoReturn

from kernelspan_agent.probes.ktypes import Leaf
from kernelspan_agent.probes.own.prepare import Prepared, text_of
from kernelspan_agent.probes.own.sources import ArgumentError
from kernelspan_agent.probes.own.user_functions import plan_in
from kernelspan_agent.process.procfs import Process
from kernelspan_agent.process.symbols.usdt import probes_of
from kernelspan_agent.process.symbols.where import AUTO, Binary, open_binary, open_path
from kernelspan_api.userprobes import UserProbe


def planned_here(spec: UserProbe) -> Prepared:
    """The probe as it would be in this machine's own file; without a plan where it names none. Raises KernelspanError."""
    if spec.file in (None, AUTO):
        return Prepared(spec)
    with binary_of(spec, None, spec.file) as binary:
        return planned_in(spec, binary)


def planned_in(spec: UserProbe, binary: Binary) -> Prepared:
    """The probe as it is in that file. Raises KernelspanError."""
    plan = plan_in(spec, binary)
    return Prepared(spec, plan, text_of(spec, plan, _no_way))


def _no_way(_start: Leaf, path: str) -> NoReturn:
    raise ArgumentError(f"resolve {path}: only the kernel describes its types")


@contextmanager
def binary_of(spec: UserProbe, process: Process | None, path: str) -> Iterator[Binary]:
    """The file that has the code: of a process, or (None) this machine's own of that path. Raises SymbolError, ProcessError."""
    if process is None:
        with open_path(path) as found:
            yield found
        return
    if spec.usdt is None:
        with open_binary(process, path) as found:
            yield found
        return
    with closing(probes_of(process, path, spec.usdt.provider, spec.usdt.probe)) as files:
        yield next(files)[0]
