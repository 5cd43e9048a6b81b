# SPDX-License-Identifier: Apache-2.0
"""A path travels once, and its id stands for it from then on; what the agent forgets it is told again."""

from __future__ import annotations

import pytest

from tests.support.engines import Made, engines, programs

pytestmark = pytest.mark.root
SPEC = {"files": {"operations": ["Stat"]}}
MARK = "/mark/one"


@pytest.mark.parametrize("is_said", [True, False], ids=["forgotten", "lost"])
def test_a_path_that_was_forgotten(is_said: bool) -> None:
    """The kernel is told of what was forgotten; where it is not, the id that nobody knows makes it send the path again."""
    with engines() as make, programs() as begin:
        made = make(SPEC)
        made.add("p", SPEC)
        program = begin()
        made.trace(program, "p")

        def look(times: int) -> None:
            before = len(made.seen["p"].spans)
            for _ in range(times):
                program.do("look one")
            made.until(lambda: len(made.seen["p"].spans) == before + times, "all are seen")

        look(3)
        assert _texts(made) == [MARK] * 3
        paths = made.engine.tables.paths
        known = list(paths._texts)
        paths._texts.clear()
        made.engine.profiles["p"].resolver._files.clear()
        if is_said:
            made.engine.session.forget_ids(paths=known)
        look(1)
        look(2)
        assert _texts(made) == [MARK] * 3 + [MARK if is_said else ""] + [MARK] * 2
        made.end()


def _texts(made: Made) -> list[str]:
    return [text for _, text in made.seen["p"].spans]
