# SPDX-License-Identifier: Apache-2.0
"""Cutting and joining SpanBatches by row, so that a queue can be bounded in spans and a request filled.

Resources are compared by identity: one process is one Resource object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernelspan_agent.model import SPAN, Resource, SpanBatch


def operation_mask(batch: SpanBatch) -> np.ndarray:
    """Which rows are operations: bool, shape (n,)."""
    if batch.operation_rows is not None:
        return batch.operation_rows
    return np.arange(len(batch)) < batch.operations


def part(batch: SpanBatch, start: int, stop: int) -> SpanBatch:
    """Rows start to stop; columns are views."""
    if start == 0 and stop == len(batch):
        return batch
    mask = operation_mask(batch)[start:stop]
    return SpanBatch(
        batch.rows[start:stop], batch.segments[start:stop], batch.resources, int(np.count_nonzero(mask)), mask
    )


def concat(batches: Sequence[SpanBatch]) -> SpanBatch:
    """All rows of `batches` (at least one) in order, each Resource once."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch.segments.shape[1] for batch in batches)
    total = sum(len(batch) for batch in batches)
    segments = np.full((total, width), None, dtype=object)
    resources: list[Resource] = []
    index: dict[int, int] = {}
    rows = np.empty(total, SPAN)  # np.concatenate would turn big-endian ids into native ones
    masks, at = [], 0
    for batch in batches:
        for resource in batch.resources:
            if index.setdefault(id(resource), len(resources)) == len(resources):
                resources.append(resource)
        renumber = np.array([index[id(resource)] for resource in batch.resources], dtype=np.uint32)
        rows[at : at + len(batch)] = batch.rows
        if len(batch):
            rows["resource"][at : at + len(batch)] = renumber[batch.rows["resource"]]
        masks.append(operation_mask(batch))
        segments[at : at + len(batch), : batch.segments.shape[1]] = batch.segments
        at += len(batch)
    mask = np.concatenate(masks)
    return SpanBatch(rows, segments, resources, int(np.count_nonzero(mask)), mask)
