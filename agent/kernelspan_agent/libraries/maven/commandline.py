# SPDX-License-Identifier: Apache-2.0
"""What the command that started a JVM says: its main class or jar, and the directories and jars of its class path.

The options that take a word of their own are those of java(1), JDK 8 to 28. A program that embeds a JVM says nothing here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from kernelspan_agent.process.rootfs import Root

MAX_ARGUMENTS_BYTES = 1 << 20
_PATHS = ("-cp", "-classpath", "--class-path")
_WITH_A_WORD = (
    *("--module-path", "-p", "--add-modules", "--add-exports", "--add-opens", "--add-reads", "--upgrade-module-path"),
    *("--limit-modules", "--patch-module", "--source", "--enable-native-access", "--illegal-native-access"),
    *("--describe-module", "-d", "--add-launcher", "--finalization"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """Paths as they are written; relative ones start from the process's directory. Both empty: it is not known."""

    main_class: str = ""  # with slashes
    main_jar: str = ""
    class_path: tuple[str, ...] = ()


def parse_command(arguments: list[str], environ_class_path: str, root: Root, cwd: str) -> Command:
    """What a JVM's arguments say, the program's own name first."""
    if not arguments or arguments[0].rpartition("/")[2] != "java":
        return Command()
    words = _expanded(arguments[1:], root, cwd)
    path, at = environ_class_path, 0
    while at < len(words):
        word = words[at]
        name, equals, value = word.partition("=")
        if word in _PATHS or word in _WITH_A_WORD:
            if word in _PATHS and at + 1 < len(words):
                path = words[at + 1]
            at += 2
        elif name == "--class-path" and equals:
            path, at = value, at + 1
        elif word == "-jar":
            jar = words[at + 1] if at + 1 < len(words) else ""
            return Command("", jar, (jar,) if jar else ())
        elif word in ("-m", "--module") or name == "--module":
            return Command()  # from the module path
        elif word.startswith("-"):
            at += 1
        else:
            return Command(word.replace(".", "/"), "", tuple(each for each in (path or ".").split(":") if each))
    return Command()


def _expanded(words: list[str], root: Root, cwd: str) -> list[str]:
    """With the words of argument files (@FILE) in their place; these name no others."""
    found: list[str] = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        path = word[1:] if word.startswith("@/") else f"{cwd}/{word[1:]}"
        data = root.read(path, MAX_ARGUMENTS_BYTES) or b""
        try:
            found += shlex.split(data.decode("utf-8", "surrogateescape"), comments=True)
        except ValueError:
            return []
    return found
