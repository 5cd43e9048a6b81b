# SPDX-License-Identifier: Apache-2.0
"""The demo's services: made ready, started, and ended with all that they have started.

`shop` (Python: Flask on gunicorn) asks `prices` (Java: the JDK's own HTTP server), which asks `stock` (Go: net/http), which asks
PostgreSQL. What is compiled or fetched for them is kept in the user's cache folder, by what it is made of.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1]))  # where `tools` is

from tools import debian, gotool, postgresql  # noqa: E402
from tools.build import cache_folder  # noqa: E402
from tools.errors import ToolError  # noqa: E402

APP, PRICES, STOCK = HERE / "app", HERE / "prices", HERE / "stock"
STOP_SECONDS = 20.0
JAVA_RELEASE = "11"  # the oldest whose class library has all that Prices.java uses


class SetupError(Exception):
    """A service cannot be made ready or started here; says why."""


@dataclass(frozen=True)
class Programs:
    """What is started: the Python of the shop's environment, a JVM with the classes of `prices`, the program `stock`."""

    python: str
    java: str
    classes: Path
    stock: Path


@dataclass(frozen=True)
class Services:
    """What runs. `pids`: by name, of what is to be traced. `port`: the shop's, on loopback."""

    pids: dict[str, int]
    port: int


def prepare(python: str, say: Callable[[str], None]) -> Programs:
    """Compiles and fetches what is not there yet, and says so. Raises SetupError."""
    try:
        if not postgresql.is_there():
            say("fetching PostgreSQL's packages and unpacking them into the cache (once; some 90 MB, 420 unpacked)")
        postgresql.root()
        java, classes = _classes(say)
        return Programs(python, java, classes, _stock(say))
    except (ToolError, debian.DebianError) as error:
        hint = getattr(error, "hint", "")
        raise SetupError(f"{error}. {hint}" if hint else str(error)) from error


@contextlib.contextmanager
def started(programs: Programs, folder: Path) -> Iterator[Services]:
    """All of them, each on a port of its own, until the block ends. `folder`: for the shop's files. Raises SetupError."""
    with contextlib.ExitStack() as stack:
        try:
            database = stack.enter_context(postgresql.server(stack.enter_context(postgresql.cluster())))
        except debian.DebianError as error:
            raise SetupError(str(error)) from error
        address = f"postgres://{postgresql.USER}:{postgresql.PASSWORD}@127.0.0.1:{database}/postgres?sslmode=disable"
        environ = os.environ | {"STOCK_DATABASE": address}
        stock, stock_port = stack.enter_context(_listening("stock", [str(programs.stock)], environ))
        # Nothing is left in /tmp, and a small program takes a small heap.
        line = [programs.java, "-XX:-UsePerfData", "-Xmx64m", "-cp", str(programs.classes), "shop.Prices"]
        prices, prices_port = stack.enter_context(
            _listening("prices", [*line, f"127.0.0.1:{stock_port}"], dict(os.environ))
        )
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        line = [programs.python, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--threads", "4"]
        line += ["--keep-alive", "75", "--log-level", "warning", "--chdir", str(APP), "shop:app"]
        environ = os.environ | {"SHOP_DATA": str(folder), "SHOP_PRICES": f"127.0.0.1:{prices_port}"}
        shop = stack.enter_context(running(line, env=environ, pass_fds=[listener.fileno()]))
        pids = {"shop": shop.pid, "prices": prices.pid, "stock": stock.pid}
        yield Services(pids, listener.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, so that Ctrl-C is ours to handle; ended with all that it started."""
    process = subprocess.Popen(command, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _listening(
    name: str, command: Sequence[str], environ: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that prints its port."""
    with running(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if not said.isdigit():
            raise SetupError(f"the service {name} does not start")
        yield process, int(said)


def _classes(say: Callable[[str], None]) -> tuple[str, Path]:
    """The JVM that belongs to the compiler, and the folder of the classes it has made."""
    compiler = shutil.which("javac")
    if compiler is None:
        raise ToolError("this machine has no javac", hint="tools/apt demo installs it")

    def compile_into(made: Path) -> None:
        sources = sorted(map(str, PRICES.glob("*.java")))
        line = [compiler, "-g", "--release", JAVA_RELEASE, "-d", str(made), *sources]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"javac: {done.stderr.strip()[-500:]}")

    found = _kept("prices", _key(PRICES, JAVA_RELEASE, os.path.realpath(compiler)), compile_into, say)
    return str(Path(compiler).resolve().with_name("java")), found


def _stock(say: Callable[[str], None]) -> Path:
    """The program, by the Go of this machine and the modules that go.sum pins."""
    go = gotool.find_go(os.environ, STOCK)

    def build_into(made: Path) -> None:
        gotool.run(go, ["go", "build", "-v", "-o", f"{made}/stock", "."], STOCK, "stock", made.with_name("log"), say)

    return _kept("stock", _key(STOCK, go.version), build_into, say) / "stock"


def _key(folder: Path, *facts: str) -> str:
    """Changes with the sources, with where they are (programs know it), and with `facts`."""
    texts = [path.read_bytes() for path in sorted(folder.iterdir())]
    return hashlib.sha256(b"\0".join([str(folder).encode(), *map(str.encode, facts), *texts])).hexdigest()[:16]


def _kept(name: str, key: str, make: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """A folder of the cache, which is there whole or not at all."""
    cache = cache_folder(os.environ).parent / "demo"
    found = cache / f"{name}-{key}"
    if not found.exists():
        say(f"compiling {name} into {found}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
            made = Path(scratch, "made")
            made.mkdir()
            make(made)
            with contextlib.suppress(OSError):  # another session was faster
                made.rename(found)
    return found
