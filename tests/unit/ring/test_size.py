# SPDX-License-Identifier: Apache-2.0
"""How large the ring buffer is: as the environment or the command line says, and nothing that the kernel would refuse."""

from __future__ import annotations

import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.ring.size import RING_BYTES, VARIABLE, ring_bytes, with_ring


def test_as_it_is_said() -> None:
    """The command line before the environment, and neither of them needed."""
    assert ring_bytes({}) == ring_bytes({VARIABLE: ""}) == RING_BYTES
    assert [ring_bytes({VARIABLE: str(1 << power)}) for power in range(11)] == [1 << 20 + power for power in range(11)]
    assert with_ring({"A": "b", VARIABLE: "8"}, None) == {"A": "b", VARIABLE: "8"}
    assert ring_bytes(with_ring({VARIABLE: "8"}, 16)) == 16 << 20


@pytest.mark.parametrize("said", ["0", "3", "2048", "-4", "4.0", "4M", " 4", "٤", "1" * 5000])
def test_what_is_none(said: str) -> None:
    """It is told what one is."""
    with pytest.raises(UsageError, match="no size of a ring buffer") as refused:
        ring_bytes({VARIABLE: said})
    assert "power of two from 1 to 1024" in refused.value.hint
