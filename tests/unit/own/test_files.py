# SPDX-License-Identifier: Apache-2.0
"""Files that probes on user code are looked for in."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import msgspec
import pytest

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.own import looking
from kernelspan_agent.probes.own.user_functions import plan_in
from kernelspan_agent.process.elf import PT_LOAD, read_elf
from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.process.symbols.where import open_path
from kernelspan_api.userprobes import UserProbe


def test_what_is_wrong_with_the_file_that_has_the_probe_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that another file of the process has no such probe; and the files are let go of."""
    let_go: list[bool] = []

    def probes_of(*_: object) -> Generator[tuple[str, None]]:
        try:
            yield from (("the first", None), ("the second", None))
        finally:
            let_go.append(True)

    monkeypatch.setattr(looking, "probes_of", probes_of)
    spec = msgspec.convert({"name": "x", "usdt": {"path": looking.AUTO, "provider": "p", "probe": "q"}}, UserProbe)
    with (
        pytest.raises(KernelspanError, match="in the first"),
        looking.binary_of(spec, open_process(os.getpid()), looking.AUTO) as binary,
    ):
        raise KernelspanError(f"no end probe in {binary}")
    assert let_go == [True]


def test_an_offset_where_there_is_no_code_is_refused() -> None:
    """The kernel would write its breakpoint into what the program reads there."""
    with open_path(os.path.realpath(sys.executable)) as binary:
        data = next(each for each in read_elf(binary.fd).segments if each.kind == PT_LOAD and not each.is_code)
        target = {"path": binary.path, "offsets": [data.offset + data.file_bytes // 2]}
        spec = msgspec.convert({"name": "x", "mode": "Event", "uprobe": target}, UserProbe)
        with pytest.raises(KernelspanError, match="no code at offset") as refused:
            plan_in(spec, binary)
    assert refused.value.reason == "SymbolNotFound"
