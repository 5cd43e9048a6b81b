# SPDX-License-Identifier: Apache-2.0
"""A gRPC server over TLS that gives an agent the plans a test makes, for tests of the agent's side alone."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from kernelspan_api.control.control_pb2 import (
    Enquiry,
    Identity,
    Introduction,
    Location,
    Neighbour,
    NodePlan,
    NodeReport,
    ProfileState,
)
from tests.support.tls import TlsFiles


def _message(plan: NodePlan | bytes) -> bytes:
    return plan if isinstance(plan, bytes) else plan.SerializeToString()


class PlanServer:
    """The operator's side of the stream as it is spoken: sends what a test puts into `plans`, keeps what it hears."""

    def __init__(self, tls: TlsFiles, port: int = 0) -> None:
        self.plans: queue.Queue[NodePlan | bytes | None] = queue.Queue()  # bytes go out as they are
        self.closed = False
        self.heard: list[NodeReport] = []
        self.tokens: list[str] = []
        self.server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        method = grpc.stream_stream_rpc_method_handler(
            self.sync, request_deserializer=NodeReport.FromString, response_serializer=_message
        )
        self.identity: Identity | None = (
            None  # what it gives an agent that other agents may ask; None: it knows no such call
        )
        self.neighbours: dict[str, Neighbour] = {}  # by address
        meet = grpc.unary_unary_rpc_method_handler(
            self.meet,
            request_deserializer=Enquiry.FromString,
            response_serializer=Introduction.SerializeToString,
        )
        calls = {"Sync": method, "Meet": meet}
        handler = grpc.method_handlers_generic_handler("kernelspan.v1alpha1.Control", calls)
        self.server.add_generic_rpc_handlers((handler,))
        pair = (tls.server_key.read_bytes(), tls.server_certificate.read_bytes())
        self.port = self.server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
        self.server.start()

    def sync(self, reports: Iterator[NodeReport], context: Any) -> Iterator[NodePlan | bytes]:
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        threading.Thread(target=self.hear, args=(reports,), daemon=True).start()
        while not self.closed and context.is_active():
            with contextlib.suppress(queue.Empty):
                plan = self.plans.get(timeout=0.1)
                if plan is None:
                    return
                if not context.is_active():
                    self.plans.put(plan)  # for the next stream
                    return
                yield plan

    def meet(self, enquiry: Enquiry, context: Any) -> Introduction:
        if self.identity is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "as an older operator says")
        found = [Location(address=one, neighbour=self.neighbours.get(one)) for one in enquiry.addresses]
        return Introduction(identity=self.identity if enquiry.endpoint else None, locations=found)

    def hear(self, reports: Iterator[NodeReport]) -> None:
        with contextlib.suppress(grpc.RpcError):
            for report in reports:
                self.heard.append(report)

    def kinds(self) -> list[str]:
        return [str(one.WhichOneof("body")) for one in self.heard]

    def states(self) -> dict[str, ProfileState]:
        """By uid, how each profile stood when the agent last said."""
        said = [one.state for one in list(self.heard) if one.WhichOneof("body") == "state"]
        return {one.uid: one for one in said[-1].profiles} if said else {}

    def close(self) -> None:
        self.closed = True
        self.plans.put(None)
        self.server.stop(0).wait()
