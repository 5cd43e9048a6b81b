# SPDX-License-Identifier: Apache-2.0
"""The reference page of the chart's values, written from the comments of values.yaml: `python -m tools.values [FILE]`.

docs/reference/chart.md is this module's output; a test compares them. A value's comment stands right above it; a group
(a mapping with comments inside) is a heading with the comment that it has, if any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

VALUES = Path(__file__).resolve().parent.parent / "charts/kernelspan/values.yaml"
_KEY = re.compile(r"(?P<indent> *)(?P<name>[A-Za-z][A-Za-z0-9]*):(?P<rest> .*)?")
_STEP = 2
_HEAD = """\
<!-- Written by `make chart-docs`. Edit the comments in charts/kernelspan/values.yaml instead. -->
# Values of the chart

`helm install kernelspan charts/kernelspan -n kernelspan --create-namespace --set NAME=VALUE`, or `-f FILE`. What is not
listed is refused (values.schema.json). How to use them: [Kubernetes](../how-to/kubernetes.md).
"""


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its path from the top, its default as JSON-like YAML, and what its comment says."""

    path: tuple[str, ...]
    default: str
    text: str

    @property
    def name(self) -> str:
        """As --set takes it."""
        return ".".join(self.path)


def read(text: str) -> Iterator[Value]:
    """Every value with a comment above it, in the file's order. A comment block that an empty line ends is nobody's."""
    tree = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        found = _KEY.fullmatch(line)
        if found is not None:
            del path[len(found["indent"]) // _STEP :]
            path.append(found["name"])
            if comment:
                yield Value(tuple(path), _default(tree, path), " ".join(comment))
        comment = []


def page(text: str) -> str:
    """The page, as Markdown."""
    lines, group = [_HEAD], None
    for value in read(text):
        of = value.path[0] if len(value.path) > 1 else ""
        if of != group:
            group = of
            lines += [*([f"\n## {of}\n"] if of else []), "| Value | Default | Meaning |", "| --- | --- | --- |"]
        lines.append(f"| `{value.name}` | `{value.default}` | {value.text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _default(tree: object, path: list[str]) -> str:
    for name in path:
        assert isinstance(tree, dict)
        tree = tree[name]
    written = yaml.safe_dump(tree, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...").replace("''", '""')


def main() -> None:
    """Prints the page, or writes it to the file given."""
    text = page(VALUES.read_text("utf-8"))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, "utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
