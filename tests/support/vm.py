# SPDX-License-Identifier: Apache-2.0
"""One command under another kernel, on this machine's files.

qemu boots the kernel with a first process made here. The guest sees this machine's root read-only under a layer of
memory, so it may write anywhere and nothing stays; one folder may be shared for real. There is no network but loopback,
and where it is asked for a wire to this machine's own loopback: it has no route to anywhere else.
Serial lines carry the output (0.6 MB/s: bulk belongs into the shared folder) and the exit status. The emulation runs in
one thread: with one a CPU it loses the kernel's patching of its own code, and the guest dies while probes attach.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.kernels import Kernel

_DRIVERS = ("virtio_pci", "virtiofs", "overlay")  # modules of some kernels, built into others
_NETWORK_DRIVERS = ("virtio_net",)
HOST = "10.0.2.2"  # how a guest with a network calls this machine's loopback (qemu's user network)
_ADDRESS = "10.0.2.15/24"
_MEMORY_MB = 2048
_BUSYBOX = Path("/bin/busybox")
_VIRTIOFSD = {  # the program is another one since Debian 13, with other options
    Path("/usr/libexec/virtiofsd"): ("--shared-dir=/", "--cache=always", "--sandbox=chroot"),
    Path("/usr/lib/qemu/virtiofsd"): ("-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"),
}
_SECONDS_TO_SERVE = 10.0
# What this process starts ends with it, also when it is killed itself.
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")

_FIRST_PROCESS = r"""#!/bin/busybox sh
set -e
b=/bin/busybox
complain() { echo "first process: $1 failed"; $b poweroff -f; }
mounted() { $b mkdir -p "$3" && $b mount -t "$1" ${4:+-o $4} "$2" "$3" || complain "mounting $3"; }
mounted proc p /proc
mounted devtmpfs d /dev
. /settings
for module in $MODULES; do $b insmod "/modules/$module" || complain "module $module"; done
mounted virtiofs root /machine "${SHARED:+rw}"
mounted tmpfs t /layer mode=755
$b mkdir /layer/upper /layer/work
mounted overlay o /root lowerdir=/machine,upperdir=/layer/upper,workdir=/layer/work
cd /root
mounted proc p proc
mounted sysfs s sys
mounted devtmpfs d dev
mounted devpts p dev/pts ptmxmode=666
mounted tmpfs t dev/shm
mounted tmpfs t run
mounted tracefs t sys/kernel/tracing
mounted bpf b sys/fs/bpf
mounted cgroup2 c sys/fs/cgroup
[ -e dev/fd ] || $b ln -s /proc/self/fd dev/fd
for folder in $SHARED; do $b mount -o bind "/machine$folder" "/root$folder" || complain "sharing $folder"; done
$b ip link set lo up
[ -z "$ADDRESS" ] || { $b ip link set eth0 up && $b ip address add "$ADDRESS" dev eth0; } || complain network
$b cp /command run/command
$b stty -F /dev/ttyS1 raw -echo
$b mount -o move . / || complain "root"
set +e
$b chroot . /bin/sh /run/command >/dev/ttyS1 2>&1 </dev/null
echo $? >/dev/ttyS2
$b usleep 50000
$b poweroff -f
"""


class VmError(Exception):
    """The machine did not come up, or did not end; carries the end of its console."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command's exit status, its output (both streams), and how long the machine ran."""

    status: int
    output: str
    seconds: float


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    seconds: float,
    shared: Path | None = None,
    folder: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    parameters: str = "",
    network: bool = False,
    counted: bool = False,
) -> Ran:
    """Runs `command` as root in `folder` of a machine that lives for it, at most so long.

    `shared` (no blanks in its name) is written through to this machine, everything else is forgotten. `log`: where the
    output is written as it comes. `parameters`: more for the kernel's command line. `network`: servers on 127.0.0.1 here
    are reached there as HOST, and nothing else is. `counted`: the machine's clocks tell instructions, one a nanosecond: the same
    from run to run, whatever else this machine does. Raises VmError where no exit status came.
    """
    with tempfile.TemporaryDirectory(prefix="vm-") as made:
        work = Path(made)
        output = log or work / "output"
        output.write_bytes(b"")
        (work / "initrd").write_bytes(_initrd(kernel, _script(command, folder, environ or {}), shared, network))
        started = time.monotonic()
        with (
            _files_served(work) as socket,
            _machine(kernel, work, socket, output, parameters, network, counted) as machine,
            contextlib.suppress(subprocess.TimeoutExpired),
        ):
            machine.wait(seconds)
        took = time.monotonic() - started
        status = _text(work / "status").strip()
        if not status.isdecimal():
            told = "".join(_text(path)[-3000:] for path in (output, work / "console", work / "files.log"))
            raise VmError(f"{kernel.release}: no exit status after {took:.0f} of {seconds:.0f} s\n{told}")
        return Ran(int(status), _text(output), took)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _script(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **environ}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"{exports}cd {shlex.quote(str(folder))} || exit 125\n{shlex.join(command)}\n"


@contextlib.contextmanager
def _files_served(work: Path) -> Iterator[Path]:
    """virtiofsd on this machine's root; gives its socket."""
    program = next((path for path in _VIRTIOFSD if os.access(path, os.X_OK)), None)
    if program is None:
        raise VmError("virtiofsd is not installed")
    socket = work / "files"
    with _running(work, [str(program), f"--socket-path={socket}", *_VIRTIOFSD[program]]) as server:
        deadline = time.monotonic() + _SECONDS_TO_SERVE
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise VmError(f"virtiofsd does not serve: {_text(work / 'files.log')[-500:]}")
            time.sleep(0.01)
        yield socket


@contextlib.contextmanager
def _machine(
    kernel: Kernel, work: Path, socket: Path, output: Path, parameters: str, network: bool, counted: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """qemu, with serial lines: the console, the command's output, its status."""
    memory = f"memory-backend-memfd,id=memory,size={_MEMORY_MB}M,share=on"  # shared with virtiofsd
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max,la57=off", "-M", "q35"]
    command += ["-m", f"{_MEMORY_MB}", "-object", memory, "-numa", "node,memdev=memory"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(kernel.image), "-initrd", str(work / "initrd")]
    # no_timer_check: 5.10 counts ticks against a busy loop, and panics where this machine has other work; mitigations:
    # emulated code cannot be attacked so.
    command += ["-append", f"console=ttyS0 quiet panic=-1 no_timer_check mitigations=off {parameters}".rstrip()]
    for path in (work / "console", output, work / "status"):
        command += ["-serial", f"file:{path}"]
    command += ["-chardev", f"socket,id=files,path={socket}", "-device", "vhost-user-fs-pci,chardev=files,tag=root"]
    if counted:
        command += ["-icount", "shift=0,sleep=off"]
    if network:
        command += ["-netdev", "user,id=wire,ipv6=off", "-device", "virtio-net-pci,netdev=wire,romfile="]
    with _running(work, command) as machine:
        yield machine


_processes: set[subprocess.Popen[bytes]] = set()


def processes() -> list[int]:
    """What runs now for machines, whoever waits for them."""
    return [process.pid for process in list(_processes)]


def stop_all() -> None:
    """Ends every machine that runs, in whatever thread: its `run` raises VmError."""
    for process in list(_processes):
        process.kill()


@contextlib.contextmanager
def _running(work: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with (work / "files.log").open("ab") as log:
        process = subprocess.Popen([*_ENDS_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _processes.add(process)
    try:
        yield process
    finally:
        _processes.discard(process)
        process.kill()
        process.wait()


def _initrd(kernel: Kernel, script: str, shared: Path | None, network: bool) -> bytes:
    modules = _modules(kernel.modules, _DRIVERS + (_NETWORK_DRIVERS if network else ()))
    values = {
        "SHARED": str(shared.resolve()) if shared else "",
        "MODULES": " ".join(modules),
        "ADDRESS": _ADDRESS if network else "",
    }
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    files = {
        "bin/busybox": (0o755, _BUSYBOX.read_bytes()),
        "init": (0o755, _FIRST_PROCESS.encode()),
        "command": (0o644, script.encode()),
        "settings": (0o644, settings.encode()),
        **{f"modules/{name}": (0o644, content) for name, content in modules.items()},
    }
    return _cpio(("bin", "modules"), files)


def _modules(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The modules of these names with all they need, in the order of loading; what is built in is left out."""
    there = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        path = there.get(name.replace("-", "_"))
        if path is None or f"{path.stem.split('.')[0]}.ko" in found:
            return
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        needed = re.search(rb"\0depends=([^\0]*)", content)
        for other in needed[1].decode().split(",") if needed else ():
            add(other)
        found[f"{path.stem.split('.')[0]}.ko"] = content

    for name in names:
        add(name)
    return found


def _cpio(folders: Sequence[str], files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An archive that the kernel takes as its first root (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [(name, 0o100000 | mode, content) for name, (mode, content) in files.items()]
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        spelled = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (4), length of the name, checksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(spelled), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + spelled
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
