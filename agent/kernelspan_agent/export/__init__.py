# SPDX-License-Identifier: Apache-2.0
"""Spans leave the agent here: OTLP over gRPC and HTTP, OTLP/JSON lines, a tree on the terminal.

`pipeline.Pipeline` feeds any number of outputs, each with its own bounded queue and thread; `counters` says what
became of every operation. grpc, ssl and http.client are imported only by an agent that uses them.
"""
