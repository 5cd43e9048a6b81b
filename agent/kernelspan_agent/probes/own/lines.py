# SPDX-License-Identifier: Apache-2.0
"""Lines of C that stand in several places of a probe's text."""

from __future__ import annotations


def configured(*, own_stack: bool) -> list[str]:
    """The configuration. `own_stack`: the program's stack is its thread's, never one of its CPU's (ks_own_nothing)."""
    return [
        "\tconfig = ks_own_config_of();",
        "\tif (!config) {",
        *(["\t\tks_own_nothing.call(ctx, 0);"] if own_stack else []),
        "\t\treturn 0;",
        "\t}",
    ]


def end_as(counter: str) -> list[str]:
    """The end of a call that is told of by a counter alone."""
    return [
        "\t{",
        "\t\tks_own_calls.delete(&key);",
        f"\t\tks_count(cls, {counter});",
        "\t\treturn 0;",
        "\t}",
    ]
