# SPDX-License-Identifier: Apache-2.0
"""Compiles ahead what profiles may want, so that the first one does not wait for it: seconds of a CPU once after each boot.

Nothing is loaded by it. One module at a time, in the order in which a first profile needs them; whoever has a plan to
follow holds it up and takes the CPU for what that plan wants.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes import constants
from kernelspan_agent.probes.build import Module, build
from kernelspan_agent.probes.mechanisms import RAW_TRACEPOINT, Mechanism, one_by_one
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.ring.size import ring_bytes

_log = logging.getLogger(__name__)


class Warm:
    """A thread that fills the cache of compiled programs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()  # held while a module is compiled
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="warm", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def pause(self) -> threading.Lock:
        """`with` it, nothing is compiled ahead; to begin takes as long as the module that is being compiled."""
        return self._lock

    def end(self) -> None:
        """After the module that is being compiled."""
        self._ended = True

    def _run(self) -> None:
        began = time.monotonic()
        for mechanism, module in _modules():
            with self._lock:
                if self._ended:
                    return
                defines = constants.defines(ring_bytes=ring_bytes(self._environ), watch_exec=True, **mechanism.flags)
                try:
                    build([module], defines, self._environ)
                except KernelspanError as error:  # whoever has a profile will be told
                    _log.warning("compile.failed module=%s reason=%s message=%s", module.name, error.reason, error)
                    return
            time.sleep(0)  # a lock goes to whoever asks first
        _log.info("compile.ahead seconds=%s", round(time.monotonic() - began, 1))


def _modules() -> Iterator[tuple[Mechanism, Module]]:
    for mechanism in (RAW_TRACEPOINT, one_by_one()):
        for module in modules_of(replace(EVERYTHING, runtimes=())):  # the usual walkers
            yield mechanism, module
