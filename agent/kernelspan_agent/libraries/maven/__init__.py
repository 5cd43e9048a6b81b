# SPDX-License-Identifier: Apache-2.0
"""Java: jars and directories of classes, by which of them has the class.

A running JVM does not say where it has a class from, but in its heap, which its collector moves about. What proves it: a JVM
holds open every jar that it has loaded a class from, unless that came from an archive of classes; so the class is looked for in
the jars that are open or on the class path that the command names (and in those that they carry), in the directories of that
path, and in the JDK's own modules. Where exactly one has
it, it is from there; where two have it, or none, nobody knows: a web server may have two applications with one class.

The jar or directory that the command begins with is the application, and so are the directories of its class path; what is in
BOOT-INF or WEB-INF/classes of a jar is its own. Other jars are libraries, if Maven's properties name them or the class path does.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kernelspan_agent.libraries.base import Clock, LibraryContext, Verdict
from kernelspan_agent.libraries.maven.commandline import Command, parse_command
from kernelspan_agent.libraries.maven.jars import GENERIC, Jar, make_library, read_jar
from kernelspan_agent.libraries.maven.jimage import ImageError, read_classes
from kernelspan_agent.libraries.maven.zips import ZipError, has_name
from kernelspan_agent.model import Origin
from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.rootfs import MAX_PATH_BYTES, Root

RUNTIMES = ("java",)
MAX_CLASSES = 4096  # remembered for one process
MAX_JARS, MAX_WEIGHT = 1024, 1_000_000  # read, of all processes; members of all: 8 bytes each
MAX_IMAGES = 8
MAX_OPEN = 4096  # descriptors looked at
RECHECK_NS = 5_000_000_000
_UNKNOWN: Verdict = (Origin.UNKNOWN, None)
_RUNTIME: Verdict = (Origin.RUNTIME, None)
_APP: Verdict = (Origin.APP, None)
_NOTE = "java"
_NO_CLASSES = np.zeros(0, np.uint64)
_JAR = re.compile(r".*\.(?:jar|war|ear|zip)\Z", re.IGNORECASE)
_MODULES = "/lib/modules"
_OWN_JARS = re.compile(r"(?P<home>/.*)/lib/rt\.jar\Z")
_BOOT_LOADER = "org/springframework/boot/loader/"
_FileKey = tuple[int, int, int, int]


def make(clock: Clock) -> MavenManager:
    """The manager, with nothing read yet."""
    return MavenManager(clock)


@dataclass(slots=True)
class _Process:
    """What is known of one process. `classes`: verdicts by class."""

    command: Command
    at_ns: int = 0
    homes: tuple[str, ...] = ()  # directories of JDKs
    images: tuple[np.ndarray, ...] = ()  # classes of the JDK's modules
    jars: dict[str, Jar] = field(default_factory=dict)  # open ones, by path
    classes: dict[str, tuple[int, Verdict]] = field(default_factory=dict)


class MavenManager:
    """Origin, name and version of Java classes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jars: OrderedDict[_FileKey, Jar | None] = OrderedDict()
        self._images: OrderedDict[_FileKey, np.ndarray] = OrderedDict()
        self._weight = 0

    def classify(self, file: str, context: LibraryContext) -> Verdict:
        """Whose a class is, named as the JVM does: "com/acme/Some$Inner"."""
        if not file or len(file) > MAX_PATH_BYTES or "\0" in file or "//" in file or ".." in file.split("/"):
            return _UNKNOWN
        if file.startswith("java/"):  # no loader but the JVM's own may define one there
            return _RUNTIME
        now_ns = self._clock()
        process = context.notes.get(_NOTE)
        if not isinstance(process, _Process):
            process = context.notes[_NOTE] = _Process(_command_of(context))
        known = process.classes.get(file)
        if known is not None and (known[1][0] is not Origin.UNKNOWN or 0 <= now_ns - known[0] < RECHECK_NS):
            return known[1]
        try:
            if not 0 <= now_ns - process.at_ns < RECHECK_NS or not process.at_ns:
                self._look(process, context)
                process.at_ns = now_ns
            found = self._find(file, process, context)
        except (OSError, ProcessError):  # the process is gone
            return _UNKNOWN
        if len(process.classes) >= MAX_CLASSES:
            process.classes.clear()
        process.classes[file] = (now_ns, found)
        return found

    def sites(self, files: Sequence[str], _prefixes: Sequence[str], context: LibraryContext) -> dict[str, int]:
        """The open jars, and how many jars each carries."""
        for file in files:
            self.classify(file, context)
        process = context.notes.get(_NOTE)
        return {path: len(jar.nested) for path, jar in process.jars.items()} if isinstance(process, _Process) else {}

    def _find(self, name: str, process: _Process, context: LibraryContext) -> Verdict:
        path = f"{name}.class"
        found: list[Verdict] = [_RUNTIME for image in process.images if has_name(image, path)]
        for at, jar in process.jars.items():
            if any(at.startswith(f"{home}/") for home in process.homes):
                found += [_RUNTIME] if jar.has_class(path) is not None else []
                continue
            prefix = jar.has_class(path)
            if prefix is not None:
                found.append(self._whose(at, jar, prefix, name, process, context))
            found += [(Origin.LIBRARY, inner.library) for inner in jar.nested if inner.has_class(path) is not None]
        with Root(context.root) as root:
            for directory in _directories(process.command, context):
                entry = root.find(f"{directory}/{path}")
                found += [_APP] if entry is not None and entry.is_file else []
        return found[0] if len(found) == 1 else _UNKNOWN

    @staticmethod
    def _whose(at: str, jar: Jar, prefix: str, name: str, process: _Process, context: LibraryContext) -> Verdict:
        command = process.command
        if jar.boot and not prefix and name.startswith(_BOOT_LOADER):
            return Origin.LIBRARY, make_library("org.springframework.boot", "spring-boot-loader", jar.boot)
        is_main = bool(command.main_jar) and _absolute(command.main_jar, context) == at
        is_main = is_main or (bool(command.main_class) and jar.has_class(f"{command.main_class}.class") is not None)
        if prefix or is_main:
            return _APP
        if command.main_class or command.main_jar or not jar.library.purl.startswith(GENERIC):
            return Origin.LIBRARY, jar.library
        return _UNKNOWN

    def _look(self, process: _Process, context: LibraryContext) -> None:
        """Notes the jars that the process has open now, and its JDK."""
        if context.process is None:
            return
        procfs.read_stat(context.process)  # else the pid may be another's by now
        folder, own_root = context.process.path, _own_root(context)
        homes, images = [], []
        for path in _mapped(folder):
            inside = path.removeprefix(own_root)
            homes.append(inside.removesuffix(_MODULES))
            images.append(self._image(f"{context.root}{inside}"))
        found: dict[_FileKey, tuple[str, Jar]] = {}
        for link, at in _open_files(folder):
            path = at.removeprefix(own_root)
            if own := _OWN_JARS.match(path):
                homes.append(own["home"])
            with contextlib.suppress(OSError):
                fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
                try:
                    self._add(found, fd, path)
                finally:
                    os.close(fd)
        with Root(context.root) as root:
            self._add_class_path(found, root, process.command, context)
        jars = dict(found.values())
        process.homes, process.images, process.jars = tuple(homes), tuple(images), jars

    def _image(self, path: str) -> np.ndarray:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return _NO_CLASSES
        try:
            key = _key(fd)
            if key not in self._images:
                try:
                    self._images[key] = read_classes(fd)
                except ImageError:
                    self._images[key] = _NO_CLASSES
                while len(self._images) > MAX_IMAGES:
                    self._images.popitem(last=False)
            return self._images[key]
        finally:
            os.close(fd)

    def _add_class_path(
        self, found: dict[_FileKey, tuple[str, Jar]], root: Root, command: Command, context: LibraryContext
    ) -> None:
        """The jars of the class path, with those that their manifests name: a class may be from one that was never opened."""
        waiting = [_absolute(each, context) for each in command.class_path]
        seen: set[str] = set()
        while waiting and len(seen) < MAX_JARS:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            if path.endswith("/*"):
                waiting += [f"{path[:-2]}/{name}" for name in root.names(path[:-2], MAX_JARS) if _JAR.match(name)]
            elif _JAR.match(path):
                with contextlib.suppress(OSError), root.opened(path) as fd:
                    jar = self._add(found, fd, path)
                    named = jar.class_path if jar else ()
                    waiting += [
                        os.path.normpath(f"{path.rpartition('/')[0]}/{each}") for each in named if ":" not in each
                    ]

    def _add(self, found: dict[_FileKey, tuple[str, Jar]], fd: int, path: str) -> Jar | None:
        """Notes the jar that is open, whatever its name leads to by now; the first of its names stays."""
        key = _key(fd)
        if key in self._jars:
            self._jars.move_to_end(key)
            jar = self._jars[key]
        else:
            try:
                jar = read_jar(fd, path.rpartition("/")[2])
            except (ZipError, OSError):
                jar = None
            self._jars[key] = jar
            self._weight += jar.weight if jar else 1
            while len(self._jars) > 1 and (len(self._jars) > MAX_JARS or self._weight > MAX_WEIGHT):
                _, gone = self._jars.popitem(last=False)
                self._weight -= gone.weight if gone else 1
        if jar is not None:
            found.setdefault(key, (path, jar))
        return jar


def _key(fd: int) -> _FileKey:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _own_root(context: LibraryContext) -> str:
    """What the kernel's links to files of the process begin with: of one that is chrooted, where its root is."""
    try:
        return os.readlink(context.root).rstrip("/")  # noqa: PTH115
    except OSError:
        return context.root.rstrip("/")


def _open_files(folder: str) -> Iterator[tuple[str, str]]:
    """(the kernel's link, where it leads) of open jars, each once."""
    seen = set()
    for name in os.listdir(f"{folder}/fd")[:MAX_OPEN]:  # noqa: PTH208 - of a hostile process there may be millions
        link = f"{folder}/fd/{name}"
        try:
            path = os.readlink(link)  # noqa: PTH115
        except OSError:
            continue
        if _JAR.match(path) and path not in seen:
            seen.add(path)
            yield link, path


def _mapped(folder: str) -> set[str]:
    try:
        with open(f"{folder}/maps", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            return {"/" + line.rstrip("\n").partition("/")[2] for line in lines if line.rstrip("\n").endswith(_MODULES)}
    except OSError:
        return set()


def _command_of(context: LibraryContext) -> Command:
    if context.process is None:
        return Command()
    folder = context.process.path
    try:
        with open(f"{folder}/cmdline", "rb") as file:  # noqa: PTH123
            words = file.read(1 << 20).decode("utf-8", "surrogateescape").split("\0")[:-1]
        with open(f"{folder}/environ", "rb") as file:  # noqa: PTH123
            environ = file.read(1 << 20).split(b"\0")
        prefix = b"CLASSPATH="
        given = next((each[len(prefix) :] for each in environ if each.startswith(prefix)), b"")
        with Root(context.root) as root:
            return parse_command(words, given.decode("utf-8", "surrogateescape"), root, context.cwd)
    except OSError:
        return Command()


def _absolute(path: str, context: LibraryContext) -> str:
    return os.path.normpath(path if path.startswith("/") else f"{context.cwd}/{path}")


def _directories(command: Command, context: LibraryContext) -> list[str]:
    """The directories of the class path, as far as it names any."""
    return [
        _absolute(each, context)
        for each in dict.fromkeys(command.class_path)
        if not _JAR.match(each) and not each.endswith("*") and (each.startswith("/") or context.cwd.startswith("/"))
    ]
