# SPDX-License-Identifier: Apache-2.0
"""Jars by the classes that they have: whose a class is where exactly one has it, and nobody's where two have."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.base import Libraries, LibraryContext
from kernelspan_agent.libraries.maven import RECHECK_NS
from kernelspan_agent.libraries.maven.commandline import Command, parse_command
from kernelspan_agent.libraries.maven.jars import parse_manifest, read_jar
from kernelspan_agent.libraries.maven.jimage import ImageError, read_classes
from kernelspan_agent.libraries.maven.zips import ZipError, has_name, read_zip
from kernelspan_agent.process.procfs import Process
from kernelspan_agent.process.rootfs import Root
from tests.unit.libraries.making import Clock

GUAVA = {
    "META-INF/maven/com.google.guava/guava/pom.properties": "groupId=com.google.guava\nartifactId=guava\nversion=33.0-jre\n"
}
CODEC = {
    "META-INF/maven/commons-codec/commons-codec/pom.properties": "#x\ngroupId=commons-codec\nartifactId=commons-codec\nversion=1.16\n"
}


def jar_bytes(members: dict[str, str | bytes], *, stored: bool = False) -> bytes:
    """A jar with these members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def image_bytes(names: list[tuple[str, str, str]]) -> bytes:
    """A jimage with these (module, parent, base) of classes, in no order of its table."""
    strings, locations, offsets = b"\0class\0", b"\0", []
    for parts in names:
        offsets.append(len(locations))
        for kind, text in zip((1, 2, 3), parts, strict=True):
            at = len(strings)
            strings += text.encode() + b"\0"
            locations += bytes([kind << 3 | 1]) + at.to_bytes(2, "big")
        locations += bytes([4 << 3, 1, 0])
    count = len(offsets)
    header = struct.pack("<7I", 0xCAFEDADA, 1, 0, count, count, len(locations), len(strings))
    return header + bytes(4 * count) + struct.pack(f"<{count}I", *offsets) + locations + strings


class Jvm:
    """A process with files open, as far as /proc shows it."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.folder, self.root = path / "42", path / "42" / "root"
        (self.folder / "fd").mkdir(parents=True)
        self.root.mkdir()
        self.clock = Clock()
        self.libraries = Libraries(self.clock)
        (self.folder / "stat").write_text(f"42 (java) S {' '.join(['1'] * 18)} 777 {' '.join(['1'] * 30)}")
        process = Process(42, 777, str(path))
        self.context = LibraryContext("java", root=str(self.root), version=(17,), cwd="/app", process=process)
        (self.folder / "cmdline").write_bytes(b"".join(each.encode() + b"\0" for each in arguments))
        (self.folder / "environ").write_bytes(b"CLASSPATH=/env/classes\0")
        (self.folder / "maps").write_text("")

    def write(self, path: str, data: bytes = b"") -> Path:
        """A file of the process's root."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def opens(self, path: str, data: bytes) -> None:
        """A jar that it holds open. Links of /proc name paths in the process's own root."""
        link = self.folder / "fd" / str(3 + len(list((self.folder / "fd").iterdir())))
        link.symlink_to(self.write(path, data))

    def verdict(self, name: str) -> str:
        """Of a class."""
        origin, library = self.libraries.classify(name, self.context)
        return f"{origin.value} {library.purl or library.name}" if library else origin.value


def test_libraries_and_the_application(tmp_path: Path) -> None:
    """By Maven's properties, by the manifest, by the file's name; the jar with the main class is the application."""
    jvm = Jvm(
        tmp_path, "/usr/bin/java", "-Xmx1g", "-cp", "/app/app.jar:/app/lib/guava.jar:/app/classes", "com.acme.Main"
    )
    jvm.opens("/app/app.jar", jar_bytes({"com/acme/Main.class": "", **CODEC}))
    jvm.opens("/app/lib/guava.jar", jar_bytes({"com/google/common/Some.class": "", **GUAVA}))
    manifest = "Manifest-Version: 1.0\r\nBundle-SymbolicName: org.osgi.th\r\n ing;singleton:=true\r\nBundle-Version: 2.1\r\n\r\n"
    jvm.opens("/app/lib/osgi.jar", jar_bytes({"org/thing/A.class": "", "META-INF/MANIFEST.MF": manifest}))
    jvm.opens("/app/lib/plain-1.jar", jar_bytes({"plain/A.class": ""}))
    jvm.write("/app/classes/com/acme/Other.class")
    assert jvm.verdict("com/acme/Main") == "App"
    assert jvm.verdict("com/acme/Other") == "App"
    assert jvm.verdict("com/google/common/Some") == "Library pkg:maven/com.google.guava/guava@33.0-jre"
    assert jvm.verdict("org/thing/A") == "Library pkg:generic/org.osgi.thing@2.1"
    assert jvm.verdict("plain/A") == "Library pkg:generic/plain-1"
    assert jvm.verdict("java/lang/String") == "Runtime"
    assert jvm.verdict("com/acme/Generated") == "unknown"
    assert jvm.verdict("../../etc/passwd") == "unknown"


def test_a_class_that_two_have_is_nobodys(tmp_path: Path) -> None:
    """Two applications of one server may have classes of one name."""
    jvm = Jvm(tmp_path, "java", "-jar", "server.jar")
    jvm.opens("/app/server.jar", jar_bytes({"server/Main.class": ""}))
    jvm.opens("/app/a.jar", jar_bytes({"shared/A.class": "", "only/A.class": "", **GUAVA}))
    assert jvm.verdict("shared/A") == "Library pkg:maven/com.google.guava/guava@33.0-jre"
    jvm.opens("/app/b.jar", jar_bytes({"shared/A.class": "", **CODEC}))
    assert jvm.verdict("shared/A") == "Library pkg:maven/com.google.guava/guava@33.0-jre"  # known
    jvm.context.notes.clear()
    assert jvm.verdict("shared/A") == "unknown"
    assert jvm.verdict("only/A") == "Library pkg:maven/com.google.guava/guava@33.0-jre"
    assert jvm.verdict("server/Main") == "App"


def test_jars_of_the_class_path_that_are_not_open(tmp_path: Path) -> None:
    """A class of an archive (CDS) may be from one of them: it makes a class of another jar nobody's; also by a manifest or `*`."""
    jvm = Jvm(tmp_path, "java", "-cp", "/app/main.jar:/app/lib/*", "com.acme.Main")
    manifest = "Class-Path: more/a.jar\n"
    jvm.opens("/app/main.jar", jar_bytes({"com/acme/Main.class": "", "META-INF/MANIFEST.MF": manifest}))
    jvm.opens("/plugins/b.jar", jar_bytes({"a/A.class": "", "b/B.class": "", "c/C.class": "", **GUAVA}))
    jvm.write("/app/more/a.jar", jar_bytes({"a/A.class": ""}))
    jvm.write("/app/lib/b.jar", jar_bytes({"b/B.class": ""}))
    assert jvm.verdict("com/acme/Main") == "App"
    assert [jvm.verdict(name) for name in ("a/A", "b/B")] == ["unknown", "unknown"]
    assert jvm.verdict("c/C").startswith("Library pkg:maven")


def test_spring_boot(tmp_path: Path) -> None:
    """Jars stored in the application's, its own classes below BOOT-INF, and the loader, which is a library."""
    inner = jar_bytes({"com/google/common/Some.class": "", **GUAVA})
    outer = {
        "META-INF/MANIFEST.MF": "Spring-Boot-Version: 3.2.1\nMain-Class: org.springframework.boot.loader.launch.JarLauncher\n",
        "org/springframework/boot/loader/launch/JarLauncher.class": "",
        "BOOT-INF/classes/com/acme/App.class": "",
        "BOOT-INF/lib/guava-33.jar": inner,
        **CODEC,
    }
    jvm = Jvm(tmp_path, "java", "-jar", "/app/app.jar")
    jvm.opens("/app/app.jar", jar_bytes(outer, stored=True))
    assert jvm.verdict("com/acme/App") == "App"
    assert jvm.verdict("com/google/common/Some") == "Library pkg:maven/com.google.guava/guava@33.0-jre"
    loader = "Library pkg:maven/org.springframework.boot/spring-boot-loader@3.2.1"
    assert jvm.verdict("org/springframework/boot/loader/launch/JarLauncher") == loader


def test_modules_of_the_jdk(tmp_path: Path) -> None:
    """Classes of lib/modules are the runtime's, whatever their names; of JDK 8, those of the jars beside rt.jar."""
    jvm = Jvm(tmp_path, "java", "com.acme.Main")
    image = image_bytes(
        [("jdk.net", "jdk/net", "Sockets"), ("java.base", "sun/nio/ch", "Net"), ("", "packages", "jdk.net")]
    )
    jvm.write("/jdk/lib/modules", image)
    (jvm.folder / "maps").write_text("7f00-7f01 r--s 00000000 08:01 1 /jdk/lib/modules\n")
    assert jvm.verdict("jdk/net/Sockets") == "Runtime"
    assert jvm.verdict("jdk/net/Other") == "unknown"
    old = Jvm(tmp_path / "old", "java", "com.acme.Main")
    old.opens("/jre/lib/rt.jar", jar_bytes({"sun/nio/ch/Net.class": ""}))
    old.opens("/jre/lib/ext/more.jar", jar_bytes({"sun/more/A.class": ""}))
    assert old.verdict("sun/nio/ch/Net") == "Runtime"
    assert old.verdict("sun/more/A") == "Runtime"


def test_a_jar_that_is_opened_later(tmp_path: Path) -> None:
    """What nobody had is asked for again after a while."""
    jvm = Jvm(tmp_path, "java", "com.acme.Main")
    assert jvm.verdict("plug/In") == "unknown"
    jvm.opens("/app/plug.jar", jar_bytes({"plug/In.class": "", **GUAVA}))
    assert jvm.verdict("plug/In") == "unknown"
    jvm.clock.now_ns += RECHECK_NS
    assert jvm.verdict("plug/In").startswith("Library")


def test_shaded_jars(tmp_path: Path) -> None:
    """Of several libraries in one jar it is the one that its name agrees with; else none of them."""
    for name, expected in (("guava-33.0-jre.jar", "com.google.guava:guava"), ("all.jar", "all")):
        path = tmp_path / name
        path.write_bytes(jar_bytes({**GUAVA, **CODEC}))
        with path.open("rb") as file:
            assert read_jar(file.fileno(), name).library.name == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["java", "-cp", "a:b.jar", "x.Main", "-cp", "no"], Command("x/Main", "", ("a", "b.jar"))),
        (
            ["/jdk/bin/java", "--class-path=a", "-Dx=y", "--add-opens", "java.base/java.lang=ALL", "Main"],
            Command("Main", "", ("a",)),
        ),
        (["java", "-Xmx1g", "-jar", "app.jar", "x"], Command("", "app.jar", ("app.jar",))),
        (["java", "Main"], Command("Main", "", ("/env",))),
        (["java", "-m", "mod/x.Main"], Command()),
        (["java", "-cp"], Command()),
        (["python3", "-cp", "a", "x.Main"], Command()),
        ([], Command()),
        (["java", "@/args", "Main"], Command("Main", "", ("p q", "r"))),
    ],
)
def test_what_a_command_says(tmp_path: Path, words: list[str], expected: Command) -> None:
    """Main class, jar and class path, as java itself reads its arguments."""
    (tmp_path / "args").write_text("# a file of arguments\n-cp 'p q:r'\n")
    with Root(str(tmp_path)) as root:
        assert parse_command(words, "/env", root, "/app") == expected


def test_manifests() -> None:
    """Lines that go on, and only the main section."""
    assert parse_manifest("A: b\n c\nB: d\n\nName: x\nA: other\n") == {"a": "bc", "b": "d"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_hostile_jars(tmp_path: Path, data: bytes, at: int, byte: int) -> None:
    """Random files, and a jar with a byte changed: an error of ours or an answer."""
    sound = bytearray(jar_bytes({"a/B.class": "x" * 20, **GUAVA}))
    sound[at % len(sound)] = byte
    for content in (data, bytes(sound), bytes(sound[: at % len(sound)])):
        path = tmp_path / "some.jar"
        path.write_bytes(content)
        with path.open("rb") as file:
            try:
                read_jar(file.fileno(), "some.jar")
            except ZipError:
                continue


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
def test_hostile_images(tmp_path: Path, data: bytes, at: int, byte: int) -> None:
    """The same of lib/modules."""
    sound = bytearray(image_bytes([("m", "a/b", "C")]))
    sound[at % len(sound)] = byte
    for content in (data, bytes(sound), bytes(sound[: at % len(sound)])):
        path = tmp_path / "modules"
        path.write_bytes(content)
        with path.open("rb") as file:
            try:
                read_classes(file.fileno())
            except ImageError:
                continue


@given(st.lists(st.text("abc/", min_size=1, max_size=12), max_size=20, unique=True))
def test_names_in_a_zip(names: list[str]) -> None:
    """A zip has exactly what was put in, also with a program before it."""
    with io.BytesIO() as made:
        content = b"#!/bin/sh\n" + jar_bytes(dict.fromkeys(names, b""))
        made.write(content)
        fd = os.memfd_create("jar")
        try:
            os.write(fd, content)
            found = read_zip(fd)
            assert all(has_name(found.hashes, name) for name in names)
            assert not has_name(found.hashes, "d")
        finally:
            os.close(fd)
