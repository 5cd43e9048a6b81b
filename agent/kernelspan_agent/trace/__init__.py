# SPDX-License-Identifier: Apache-2.0
"""Operations -> spans with parents: activities, inferred functions, ids, sampling. docs/design/function-spans.md."""

from kernelspan_agent.trace.settings import Orphans, TraceSettings
from kernelspan_agent.trace.tracer import TraceCounters, Tracer

__all__ = ["Orphans", "TraceCounters", "TraceSettings", "Tracer"]
