# SPDX-License-Identifier: Apache-2.0
"""The agent's programs on libc's functions: the C text that the comparison changes is where it looks for it."""

from __future__ import annotations

import pytest

from bench import userprobes


@pytest.mark.parametrize("group", [group.value for group in userprobes.FUNCTIONS])
def test_the_text_is_changed_where_it_must_be(group: str) -> None:
    """Number, arguments and result come from a function's registers; nothing asks the kernel's record any more."""
    text = userprobes.text_of(group)
    assert "ks_cookie(ctx)" in text
    assert "args->v[0] = ctx->di" in text
    assert "return ctx->nr;" not in text.split("#else")[-1]
