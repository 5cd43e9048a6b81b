# SPDX-License-Identifier: Apache-2.0
"""Ports that stay ours, servers that are waited for and ended, OTLP/JSON read back."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from tests.support import ports
from tests.support.collector import _Received
from tests.support.otlp_json import Value, spans_of
from tests.support.ports import PortReservation
from tests.support.server import ServerError, ServerProcess, running_servers

_SPAN: dict[str, object] = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}


def _message(*spans: dict[str, object]) -> dict[str, object]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def test_reserved_port_refuses_until_a_server_listens() -> None:
    """Nobody answers at a reserved port, nobody else can take it, and a server with SO_REUSEADDR can serve there."""
    with PortReservation(3) as reservation:
        assert len(set(reservation.ports)) == 3
        address = ("127.0.0.1", reservation.ports[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)
        for _ in range(2):  # and again after the first server is gone
            with socket.create_server(address), socket.create_connection(address, timeout=5):
                pass


def test_ports_come_free_again() -> None:
    """A closed reservation holds nothing."""
    reservation = PortReservation(1)
    reservation.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", reservation.ports[0]))


def test_reservation_that_fails_gives_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation that cannot be had whole is an error and holds no port."""
    taken: list[socket.socket] = []

    def reserve_two() -> socket.socket:
        if len(taken) == 2:
            raise OSError("no free port")
        taken.append(real())
        return taken[-1]

    real = ports._reserve
    monkeypatch.setattr(ports, "_reserve", reserve_two)
    with pytest.raises(OSError, match="no free port"):
        PortReservation(3)
    assert [held.fileno() for held in taken] == [-1, -1]


def test_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    """The error holds the status and the end of the output, and nothing is left to stop."""
    command = [sys.executable, "-c", "import sys; print('cannot bind'); sys.exit(7)"]
    server = ServerProcess("broken", command, tmp_path / "log", lambda: False)
    with pytest.raises(ServerError, match=r"broken ended with 7 instead of starting:\ncannot bind"):
        server.start()
    assert server not in running_servers()
    assert server.stop() is None


def test_server_is_stopped_by_sigterm_then_by_force(tmp_path: Path) -> None:
    """`stop` asks, `kill` does not; both leave no process, and both allow another start."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    server = ServerProcess("sleeper", command, tmp_path / "log", lambda: True)
    for end, status in ((server.stop, -signal.SIGTERM), (server.kill, -signal.SIGKILL)):
        server.start()
        pid = server.pid
        assert running_servers() == [server]
        with pytest.raises(ServerError, match="already runs"):
            server.start()
        assert end() == status
        assert not Path(f"/proc/{pid}").exists()
        assert not server.running
    assert running_servers() == []


def test_servers_do_not_inherit_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that steer OpenTelemetry or proxies stay outside; what the fixture sets gets through."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere")
    code = "import json, os, time; print(json.dumps(dict(os.environ)), flush=True); time.sleep(600)"
    log = tmp_path / "log"
    server = ServerProcess(
        "printer", [sys.executable, "-c", code], log, lambda: log.read_text("utf-8").endswith("\n"), {"OTEL_X": "1"}
    )
    with server:
        environment = json.loads(log.read_text("utf-8"))
    assert environment["OTEL_X"] == "1"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environment


def test_half_written_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """A line that the collector is still writing is neither an error nor lost nor read twice."""
    received = _Received(tmp_path)
    path = tmp_path / "spans-0001.jsonl"
    line = json.dumps(_message(_SPAN))
    path.write_text(f"{line}\n{line[:20]}", "ascii")
    assert len(received.read()) == 1
    with path.open("a", encoding="ascii") as sink:
        sink.write(f"{line[20:]}\n")
    assert len(received.read()) == 2
    (tmp_path / "spans-0002.jsonl").write_text(f"{line}\n", "ascii")
    assert received.read() == [json.loads(line)] * 3


def _any_value(value: Value) -> AnyValue:
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case tuple():
            return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))
        case _:
            pairs = [KeyValue(key=key, value=_any_value(item)) for key, item in value.items()]
            return AnyValue(kvlist_value=KeyValueList(values=pairs))


_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | _TEXT
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(attributes=st.dictionaries(_TEXT, _VALUES, max_size=4))
def test_attribute_values_come_back(attributes: dict[str, Value]) -> None:
    """Every value that OTLP can hold is read from protobuf's own JSON of it as it was."""
    pairs = [MessageToDict(KeyValue(key=key, value=_any_value(value))) for key, value in attributes.items()]
    (span,) = spans_of(_message({**_SPAN, "attributes": [{"key": "", **pair} for pair in pairs]}))
    assert dict(span.attributes) == attributes
    assert [type(value) for value in span.attributes.values()] == [type(value) for value in attributes.values()]


@pytest.mark.parametrize(
    "span",
    [
        {**_SPAN, "attributes": [{"key": "a", "value": {"intValue": "1"}}] * 2},
        {**_SPAN, "attributes": [{"key": "a", "value": {"newValue": 1}}]},
        {**_SPAN, "attributes": [{"key": "a", "value": {"intValue": "one"}}]},
        {**_SPAN, "kind": "SPAN_KIND_NEW"},
        {**_SPAN, "kind": 6},
        {"traceId": _SPAN["traceId"]},
    ],
    ids=["twice", "new-value", "no-number", "new-kind", "kind-out-of-range", "no-id"],
)
def test_what_is_not_otlp_is_an_error(span: dict[str, object]) -> None:
    """A reader that passed over mistakes would let a wrong span pass a test."""
    with pytest.raises((KeyError, ValueError, IndexError)):
        list(spans_of(_message(span)))
