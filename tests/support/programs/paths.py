# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001, PTH102, PTH103, PTH104, PTH106, PTH108, PTH211 - paths are bytes, lambdas are called where they are made
"""Every way a file can be named, moved or hidden while it is used. Needs root; mounts are in a name space of its own."""

from __future__ import annotations

import os

from scenarios import AT_EMPTY_PATH, N, Said, call, libc, main, said_result, scenario, setting
from scenarios import STAT_BUFFER as BUFFER

TARGET = "kernelspan.file.target_path"
MS_BIND, MS_REC, MS_PRIVATE, CLONE_NEWNS = 0x1000, 0x4000, 0x40000, 0x20000
text = os.fsdecode


def _touch(path: bytes) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _sync(fd: int, said: Said, path: bytes | str) -> None:
    for _ in range(N):
        os.fsync(fd)
        said("file.sync", **{"file.path": path if isinstance(path, str) else text(path)})


def _open(said: Said, path: bytes, opened_as: bytes | None = None, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    fd = os.open(path, flags, 0o600)
    said("file.open", **{"file.path": text(opened_as or path)})
    return fd


@scenario
def relative(folder: bytes, said: Said) -> None:
    setting(lambda: (os.mkdir(folder + b"/a"), os.mkdir(folder + b"/b"), _touch(folder + b"/a/file")))
    directory = _open(said, folder + b"/a", flags=os.O_DIRECTORY)
    for at in (b"/a", b"/b"):
        os.chdir(folder + at)
        for _ in range(N):
            said("file.stat", **{"file.path": text(folder + at + b"/absent"), "error.type": "ENOENT"})
            call("stat", b"absent", BUFFER)
            said("file.stat", **{"file.path": text(folder + at + b"/absent"), "error.type": "ENOENT"})
            call("stat", b"./absent", BUFFER)
            said("file.stat", **{"file.path": text(folder + at + b"/../a/file")})
            call("stat", b"../a/file", BUFFER)
            said("file.stat", **{"file.path": text(folder + b"/a/file")})
            call("newfstatat", directory, b"file", BUFFER, 0)
            said("file.open", **{"file.path": text(folder + b"/a/file")})
            os.close(call("openat", directory, b"../b/../a/file", os.O_RDONLY))
    said("file.rename", **{"file.path": text(folder + b"/a/file"), TARGET: text(folder + b"/b/moved")})
    assert call("renameat", directory, b"file", -100, b"moved") == 0
    said("file.stat", **{"error.type": "ENOENT"})
    call("newfstatat", directory, b"", BUFFER, 0)
    said("file.stat", **{"file.path": text(folder + b"/a")})
    call("newfstatat", directory, b"", BUFFER, AT_EMPTY_PATH)
    call("newfstatat", 999, b"file", BUFFER, 0)
    said("file.stat", **{"error.type": "EBADF"})


@scenario
def links(folder: bytes, said: Said) -> None:
    setting(lambda: (os.mkdir(folder + b"/real"), _touch(folder + b"/real/file")))
    setting(lambda: os.symlink(folder + b"/real", folder + b"/link"))
    for _ in range(N):
        os.close(_open(said, folder + b"/link/file", folder + b"/real/file"))
        said("file.stat", **{"file.path": text(folder + b"/link/file")})  # as given: no file was opened
        assert call("stat", folder + b"/link/file", BUFFER) == 0


@scenario
def moved(folder: bytes, said: Said) -> None:
    """Renamed while open: the file, then a directory above it; each operation has the name of its moment."""
    setting(lambda: os.makedirs(folder + b"/one/two"))
    fd = _open(said, folder + b"/one/two/file")
    _sync(fd, said, folder + b"/one/two/file")
    setting(lambda: os.rename(folder + b"/one/two/file", folder + b"/one/two/other"))
    _sync(fd, said, folder + b"/one/two/other")
    setting(lambda: os.rename(folder + b"/one", folder + b"/first"))
    _sync(fd, said, folder + b"/first/two/other")
    setting(lambda: (os.mkdir(folder + b"/x"), os.rename(folder + b"/first/two", folder + b"/x/two")))
    _sync(fd, said, folder + b"/x/two/other")
    setting(lambda: os.rename(folder + b"/x/two/other", folder + b"/x/two/file"))
    _sync(fd, said, folder + b"/x/two/file")


@scenario
def reused(folder: bytes, said: Said) -> None:
    """Files and directories that go and give their numbers and memory to others, one after another."""
    for index in range(101):
        directory = folder + b"/d%d" % (index % 3)
        path = directory + b"/f%d" % (index % 5)
        setting(lambda made=directory: os.mkdir(made))
        fd = _open(said, path)
        os.fsync(fd)
        said("file.sync", **{"file.path": text(path)})
        os.close(fd)
        setting(lambda made=path, above=directory: (os.unlink(made), os.rmdir(above)))


@scenario
def unlinked(folder: bytes, said: Said) -> None:
    path = folder + b"/file"
    fd = _open(said, path)
    setting(lambda: os.unlink(path))
    _sync(fd, said, path)
    other = _open(said, path)  # another file of the same name
    _sync(other, said, path)
    _sync(fd, said, path)


@scenario
def memory(folder: bytes, said: Said) -> None:
    """A file that is in no directory has no absolute path."""
    fd = os.memfd_create("scratch")
    for _ in range(N):
        os.write(fd, b"x")
        said("file.write", **{"file.path": "memfd:scratch"})


@scenario
def proc_fd(folder: bytes, said: Said) -> None:
    fd = _open(said, folder + b"/file")
    for _ in range(N):
        os.close(_open(said, b"/proc/self/fd/%d" % fd, folder + b"/file", os.O_RDONLY))
    os.dup2(fd, 200)
    _sync(200, said, folder + b"/file")


@scenario
def odd_names(folder: bytes, said: Said) -> None:
    for name in (
        b"new\nline",
        b"\xff\xfe\x80",
        b"tab\t\x1b[31m",
        "Ünï/¢ødé".encode(),
        b" ",
        b"...",
        b"x" * 255,
        b"'\"\\",
    ):
        path = folder + b"/" + name
        if b"/" in name:
            setting(lambda made=path: os.mkdir(os.path.dirname(made)))
        fd = _open(said, path)
        _sync(fd, said, path)
        said("file.stat", **{"file.path": text(path)})
        assert call("stat", path, BUFFER) == 0
        os.close(fd)


@scenario
def long_paths(folder: bytes, said: Said) -> None:
    """As long as the kernel takes them, by name and by descriptor; deeper than is followed, by name."""
    room = 4095 - len(folder) - 1
    for length in (1000, 3000, room):
        parts, rest = [], length
        while rest > 0:
            parts.append(b"d" * min(200, rest))
            rest -= 201
        path = folder + b"/" + b"/".join(parts)
        said("file.stat", **{"file.path": text(path), "error.type": "ENOENT"})
        assert call("stat", path, BUFFER) == -2
    path = folder + b"/" + b"x" * 5000
    result = call("stat", path, BUFFER)
    said("file.stat", **{"file.path": text(path[:4095]), **said_result(result)})


@scenario
def deep(folder: bytes, said: Said) -> None:
    """Deeper than is followed: the innermost names, and no slash before them, since more stands above."""
    names = [b"%03d" % index for index in range(60)]
    setting(lambda: os.makedirs(b"/".join([folder, *names])))
    fd = _open(said, b"/".join([folder, *names, b"f"]), b"/".join([*names[-47:], b"f"]))
    _sync(fd, said, b"/".join([*names[-47:], b"f"]))
    shallow = names[: 47 - folder.count(b"/")]
    fd = _open(said, b"/".join([folder, *shallow, b"f"]))
    _sync(fd, said, b"/".join([folder, *shallow, b"f"]))


@scenario
def mounts(folder: bytes, said: Said) -> None:
    """Mounts, bind mounts and what lies below a mount: as the process sees it."""
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    above, bound, inner = folder + b"/tmpfs", folder + b"/bound", folder + b"/tmpfs/inner"
    setting(lambda: (os.mkdir(above), os.mkdir(bound)))
    assert libc.mount(b"none", above, b"tmpfs", 0, None) == 0
    setting(lambda: (os.mkdir(inner), _touch(inner + b"/file"), os.symlink(inner, folder + b"/to")))
    assert libc.mount(inner, bound, None, MS_BIND, None) == 0
    for _ in range(N):
        for path, shown in (
            (inner + b"/file", inner + b"/file"),
            (bound + b"/file", bound + b"/file"),
            (folder + b"/to/file", inner + b"/file"),
            (above, above),
        ):
            flags = os.O_DIRECTORY if path == above else os.O_RDWR
            os.close(_open(said, path, shown, flags))
    fd = _open(said, bound + b"/file")
    kept = _open(said, inner + b"/file")
    assert libc.umount2(bound, 2) == 0  # lazily: what is open stays, and is mounted nowhere any more
    for _ in range(N):
        os.fsync(fd)
        said("file.sync", **{"file.path": "file"})
    _sync(kept, said, inner + b"/file")


@scenario
def changed_root(folder: bytes, said: Said) -> None:
    root = folder + b"/root"
    setting(lambda: os.makedirs(root + b"/etc"))
    outside = _open(said, folder + b"/outside")
    inside = _open(said, root + b"/etc/inside")
    os.chroot(root)
    os.chdir(b"/etc")
    _sync(inside, said, b"/etc/inside")
    os.close(_open(said, b"/etc/inside"))
    os.close(_open(said, b"inside", b"/etc/inside"))
    said("file.stat", **{"file.path": "/"})
    assert call("stat", b"/", BUFFER) == 0
    said("file.open", **{"file.path": "/"})
    os.close(os.open(b"/", os.O_DIRECTORY))
    for _ in range(N):  # not below this root: no absolute path
        os.fsync(outside)
        said("file.sync", **{"file.path": text(folder + b"/outside").lstrip("/")})


if __name__ == "__main__":
    main()
