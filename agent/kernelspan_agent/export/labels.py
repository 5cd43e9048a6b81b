# SPDX-License-Identifier: Apache-2.0
"""What the console says of a span, as short pieces of safe text.

Everything that a traced program can choose (file names, thread names, errors) goes through `safe`: no control or
formatting character reaches the terminal, so a file name can neither move the cursor nor turn the line around.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernelspan_agent.export import wire
from kernelspan_agent.model import Attributes, AttributeValue, Segment
from kernelspan_api import semconv

_MAX_TEXT = 4096  # of one attribute; longer ones would be cut by the width anyway
_NUMBERS = {
    semconv.PROCESS_EXIT_CODE: "exit code",
    semconv.SIGNAL_NUMBER: "signal",
    semconv.CHILD_PID: "child",
    semconv.RESULT: "result",
}


@dataclass(frozen=True, slots=True)
class Label:
    """Pieces of one line, each safe and "" where not known. `function`: to say only where the parent's differs."""

    name: str
    subject: str = ""  # the file, the peer, the program
    code: str = ""  # file:line; the status of an answer
    function: str = ""
    library: str = ""
    error: str = ""
    result: str = ""  # an errno that is no failure, as EAGAIN: nothing was moved


def safe(text: str) -> str:
    r"""Text on one line: what is not printable as \xNN, \uNNNN or \UNNNNNNNN, undecodable bytes as \xNN."""
    valid = wire.text(text[:_MAX_TEXT]).decode()
    return valid if valid.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in valid)


def _escaped(one: str) -> str:
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(one)
    if known:
        return known
    number = ord(one)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def label(segments: tuple[Segment | None, ...]) -> Label:
    """The label of a span that is made of these segments."""
    found: dict[str, AttributeValue] = {}
    name = error = ""
    for segment in segments:
        if segment is not None:
            found.update(segment.attributes)
            name, error = segment.name or name, segment.error or error
    function = _text(found, semconv.CODE_FUNCTION_NAME)
    return Label(
        name=safe(name) or "unnamed",
        subject=_subject(found),
        code=_code(found),
        function="" if function == safe(name) else function,
        library=_joined(_text(found, semconv.LIBRARY_NAME), _text(found, semconv.LIBRARY_VERSION)),
        error=_text(found, semconv.ERROR_TYPE) or safe(error),
        result=_text(found, semconv.RESULT_NAME),
    )


def numbers(values: Mapping[str, int], count: int) -> str:
    """The integers of a span; of `count` folded ones bytes are a sum and the rest is not said."""
    moved = values.get(semconv.IO_TRANSFERRED, values.get(semconv.IO_REQUESTED))
    parts = [] if moved is None else [size(moved)]
    if count == 1:
        parts += [f"{words} {values[key]}" for key, words in _NUMBERS.items() if key in values]
    return " ".join(parts)


def size(count: int) -> str:
    """Bytes for a reader: 512 B, 4.0 KiB, 1.5 MiB."""
    if -1024 < count < 1024:
        return f"{count} B"
    value = count / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if abs(value) < 1023.95:  # what would be written 1024.0 goes to the next unit
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(nanoseconds: int) -> str:
    """A time span for a reader: 950 ns, 12.3 µs, 4.56 ms, 1.23 s, 2 min 05 s, 3 h 07 min, 9 d: at most 12 characters."""
    if nanoseconds < 1_000:
        return f"{nanoseconds} ns"
    for limit, divisor, unit in ((1_000_000, 1e3, "µs"), (1_000_000_000, 1e6, "ms"), (60_000_000_000, 1e9, "s ")):
        if nanoseconds < limit:
            value = nanoseconds / divisor
            return f"{value:.2f} {unit}" if value < 9.995 else f"{value:.1f} {unit}"
    minutes, seconds = divmod(nanoseconds // 1_000_000_000, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s "
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 6000 else f"{minutes // 1440} d"


def process(attributes: Attributes) -> str:
    """Who made the spans: the service's name and the process id, as far as known."""
    name = _text(attributes, semconv.SERVICE_NAME) or _text(attributes, semconv.PROCESS_EXECUTABLE_NAME)
    pid = attributes.get(semconv.PROCESS_PID)
    return _joined(name or "unknown", f"[{pid}]" if isinstance(pid, int) else "")


def _text(found: Attributes, key: str) -> str:
    value = found.get(key, "")
    return safe(value) if isinstance(value, str) else ""


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _subject(found: Attributes) -> str:
    path = _text(found, semconv.FILE_PATH)
    if path:
        target = _text(found, semconv.FILE_TARGET_PATH)
        return f"{path} → {target}" if target else path
    for key in (semconv.DB_QUERY_TEXT, semconv.URL_PATH, semconv.URL_FULL, semconv.DNS_QUESTION_NAME):
        if text := _text(found, key):
            return text
    end = semconv.NETWORK_PEER_ADDRESS, semconv.NETWORK_PEER_PORT
    if found.get(semconv.NETWORK_PROTOCOL_NAME) == "tls":  # whom a handshake is with has a name
        end = semconv.SERVER_ADDRESS, semconv.SERVER_PORT
    address, port = _text(found, end[0]), found.get(end[1])
    if address:
        host = f"[{address}]" if ":" in address and "/" not in address else address
        return f"{host}:{port}" if isinstance(port, int) and port else address
    return _text(found, semconv.PROCESS_EXECUTABLE_PATH)


def _code(found: Attributes) -> str:
    path, line = _text(found, semconv.CODE_FILE_PATH), found.get(semconv.CODE_LINE_NUMBER)
    name = path.rpartition("/")[2]
    status = found.get(semconv.HTTP_RESPONSE_STATUS_CODE)
    if isinstance(status, int) and semconv.ERROR_TYPE not in found:  # which says it, too
        return str(status)
    return f"{name}:{line}" if name and isinstance(line, int) and line else name
