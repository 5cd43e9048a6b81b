# SPDX-License-Identifier: Apache-2.0
"""What a watch of pods selects, as the API server's query has it."""

from __future__ import annotations

import msgspec

SILENCE_SECONDS = 120.0  # an API server sends a bookmark about once a minute (kube-apiserver: bookmarkFrequency)


class WatchKey(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """One watch: pods of a namespace (empty: of all) that a selector selects (empty: all)."""

    namespace: str
    selector: str
