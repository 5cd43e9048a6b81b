# SPDX-License-Identifier: Apache-2.0
"""pytest's side of tests/support: the fixtures, and the logs of running servers in the report of a failing test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.binaries import tool
from tests.support.collector import Collector, CollectorOptions
from tests.support.jaeger import Jaeger
from tests.support.server import running_servers
from tests.support.tls import TlsFiles, make_tls

StartCollector = Callable[..., Collector]


@pytest.fixture(scope="session")
def otelcol_binary(request: pytest.FixtureRequest) -> Path:
    """The collector's program, built if it is not there; its tier is kernel."""
    return built("otelcol", "kernel", request)


@pytest.fixture(scope="session")
def jaeger_binary(request: pytest.FixtureRequest) -> Path:
    """Jaeger's program, built if it is not there; its tier is kernel."""
    return built("jaeger", "kernel", request)


@pytest.fixture
def start_collector(otelcol_binary: Path, tmp_path: Path) -> Iterator[StartCollector]:
    """Starts a collector with the fields of CollectorOptions as keywords; all end with the test."""
    with contextlib.ExitStack() as stack:
        started = 0

        def start(**options: Any) -> Collector:
            nonlocal started
            started += 1
            return stack.enter_context(
                Collector(otelcol_binary, tmp_path / f"otelcol-{started}", CollectorOptions(**options))
            )

        yield start


@pytest.fixture
def collector(start_collector: StartCollector) -> Collector:
    """A plain collector that keeps every span."""
    return start_collector()


@pytest.fixture
def jaeger(jaeger_binary: Path, tmp_path: Path) -> Iterator[Jaeger]:
    """A Jaeger with nothing in it."""
    with Jaeger(jaeger_binary, tmp_path / "jaeger") as server:
        yield server


@pytest.fixture
def tls_files(tmp_path: Path) -> TlsFiles:
    """An authority of its own, with a server's and a client's certificate."""
    return make_tls(tmp_path / "tls")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the end of each running server's log to the report of a test that failed."""
    report = yield
    if report.failed:
        report.sections.extend((f"log of {server.name}", server.log_tail()) for server in running_servers())
    return report


def built(name: str, tier: str, request: pytest.FixtureRequest) -> Path:
    """The named program, built if it is not there; where it cannot be, the test is left out or fails by its tier."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        # A build takes minutes: it is shown at once, not kept for a failure.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"\ntools: {text}", flush=True)

    return tool(name, tier, say)
