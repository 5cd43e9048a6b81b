# SPDX-License-Identifier: Apache-2.0
"""From what a profile says of pods to what is watched: selectors as they are, workloads by their own selector.

What selects is `kernelspan_api.selection`'s to say. A ClusterTraceProfile with a namespaceSelector is one watch for each namespace it
matches, without one a single watch of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kernelspan_api.objects import Meta, Metadata, Workload
from kernelspan_api.resource import ClusterSpec
from kernelspan_api.selection import matches, query_of, selectors_of, workloads_at
from kernelspan_api.selectors import LabelSelector, WorkloadRef
from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.models.watched import WatchKey

from .pods import Pods
from .watch import Collection, Delete, Synced, Upsert
from .watches import OpenWatch


@dataclass(slots=True)
class _Source:
    """Objects that a profile's keys are made from, and who watches them."""

    end: Callable[[], object] = lambda: None
    objects: dict[str, Any] = field(default_factory=dict)
    synced: bool = False


class Whom:
    """Keeps `pods` told of what each profile selects."""

    def __init__(self, open_watch: OpenWatch, pods: Pods) -> None:
        self._open, self._pods = open_watch, pods
        self._workloads: dict[ProfileKey, tuple[WorkloadRef, _Source]] = {}
        self._clusters: dict[ProfileKey, tuple[LabelSelector, LabelSelector]] = {}  # of namespaces, of pods
        self._namespaces: _Source | None = None

    def put(self, profile: Profile) -> None:
        """The profile as it is now; a refused one selects nothing."""
        spec, key = profile.spec, profile.key
        ref = spec.workload_ref if spec is not None else None
        if key in self._workloads and self._workloads[key][0] != ref:
            self._workloads.pop(key)[1].end()
        self._clusters.pop(key, None)
        if spec is None:
            self._pods.release(key)
        elif isinstance(spec, ClusterSpec):
            self._put_cluster(key, spec.namespace_selector or LabelSelector(), spec.pod_selector or LabelSelector())
        elif ref is not None:
            if key not in self._workloads:
                self._follow(key, ref)
        else:
            self._pods.assign(key, [WatchKey(key.namespace, query_of(spec.pod_selector or LabelSelector()))])
        self._tidy()

    def remove(self, key: ProfileKey) -> None:
        """The profile is gone."""
        if key in self._workloads:
            self._workloads.pop(key)[1].end()
        self._clusters.pop(key, None)
        self._pods.release(key)
        self._tidy()

    def is_synced(self) -> bool:
        """Whether every workload and namespace that is asked for is known, or known not to be there."""
        sources = [source for _, source in self._workloads.values()]
        return all(source.synced for source in (*sources, *([self._namespaces] if self._namespaces else [])))

    # --- workloads ------------------------------------------------------------------------------------------------------

    def _follow(self, key: ProfileKey, ref: WorkloadRef) -> None:
        source = _Source()
        self._workloads[key] = (ref, source)
        path, fields = workloads_at(key.namespace, ref)
        collection = Collection(path, Workload, field_selector=fields)

        def tell(change: Upsert[Any] | Delete | Synced) -> None:
            if self._workloads.get(key, (None, None))[1] is source:
                _note(source, change)
                if source.synced:
                    self._pods.assign(key, _keys(key.namespace, ref, source))

        source.end = self._open(collection, tell)

    # --- namespaces -----------------------------------------------------------------------------------------------------

    def _put_cluster(self, key: ProfileKey, namespaces: LabelSelector, pods: LabelSelector) -> None:
        if namespaces == LabelSelector():
            self._pods.assign(key, [WatchKey("", query_of(pods))])
            return
        self._clusters[key] = (namespaces, pods)
        if self._namespaces is None:
            source = self._namespaces = _Source()

            def tell(change: Upsert[Any] | Delete | Synced) -> None:
                if self._namespaces is source:
                    _note(source, change)
                    if source.synced:
                        for one in self._clusters:
                            self._assign_cluster(one)

            collection = Collection("/api/v1/namespaces", Metadata, metadata_only=True)
            source.end = self._open(collection, tell)
        elif self._namespaces.synced:
            self._assign_cluster(key)

    def _assign_cluster(self, key: ProfileKey) -> None:
        assert self._namespaces is not None
        namespaces, pods = self._clusters[key]
        metas: list[Meta] = [one.metadata for one in self._namespaces.objects.values()]
        found = [meta.name for meta in metas if matches(namespaces, meta.labels or {})]
        self._pods.assign(key, [WatchKey(name, query_of(pods)) for name in found])

    def _tidy(self) -> None:
        if self._namespaces is not None and not self._clusters:
            self._namespaces.end()
            self._namespaces = None


def _note(source: _Source, change: Upsert[Any] | Delete | Synced) -> None:
    if isinstance(change, Upsert):
        source.objects[change.object.metadata.uid] = change.object
    elif isinstance(change, Delete):
        source.objects.pop(change.uid, None)
    else:
        source.synced = True


def _keys(namespace: str, ref: WorkloadRef, source: _Source) -> list[WatchKey]:
    return [WatchKey(namespace, query_of(one)) for one in selectors_of(ref, source.objects.values())]
