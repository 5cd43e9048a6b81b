# SPDX-License-Identifier: Apache-2.0
"""Which pods are selected, and by whom: one watch for each distinct (namespace, selector), shared by its profiles.

The API server does the filtering; what is not selected is not held. A pod that two watches tell of is held once, in its
newer form; it is forgotten when no watch selects it any more. A profile that changes its selector keeps the pods of the
old one until the new one's are known, so that a change makes no gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from kernelspan_api.objects import Pod
from kernelspan_operator.models.addresses import Addresses
from kernelspan_operator.models.profiles import ProfileKey
from kernelspan_operator.models.selected import SelectedPod, selected
from kernelspan_operator.models.watched import WatchKey

from .watch import Collection, Delete, Synced, Upsert
from .watches import OpenWatch


@dataclass(slots=True)
class _Watched:
    """One watch."""

    end: Callable[[], object] = lambda: None
    synced: bool = False
    profiles: set[ProfileKey] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    nodes: Counter[str] = field(default_factory=Counter)  # its pods that are on each


def pods_of(key: WatchKey) -> Collection[Pod]:
    """The collection of a key."""
    path = f"/api/v1/namespaces/{quote(key.namespace, safe='')}/pods" if key.namespace else "/api/v1/pods"
    return Collection(path, Pod, label_selector=key.selector)


class Pods:
    """All selected pods. `touched` is told of nodes whose pods, or whose pods' profiles, have changed; `counted` of
    profiles that select more or fewer pods than before, or whose pods are known now.
    """

    def __init__(
        self,
        open_watch: OpenWatch,
        touched: Callable[[Iterable[str]], object],
        counted: Callable[[Iterable[ProfileKey]], object],
    ) -> None:
        self._open, self._touched, self._counted = open_watch, touched, counted
        self._watched: dict[WatchKey, _Watched] = {}
        self._wanted: dict[ProfileKey, frozenset[WatchKey]] = {}
        self._held: dict[ProfileKey, frozenset[WatchKey]] = {}  # and what is held on to until the wanted are synced
        self._pods: dict[str, SelectedPod] = {}
        self._keys: dict[str, frozenset[WatchKey]] = {}  # of each pod
        self._shared: dict[frozenset[WatchKey], frozenset[WatchKey]] = {}  # these, each once
        self._nodes: dict[str, set[str]] = {}  # node to uids
        self.addresses = Addresses()

    # --- who asks for what --------------------------------------------------------------------------------------------

    def assign(self, profile: ProfileKey, keys: Iterable[WatchKey]) -> None:
        """From now on the profile selects what these select, and nothing else."""
        wanted = frozenset(keys)
        before = self._held.get(profile, frozenset())
        self._wanted[profile] = wanted
        self._hold(profile, before | wanted)
        self._settle(profile)

    def release(self, profile: ProfileKey) -> None:
        """The profile selects nothing any more."""
        self._wanted.pop(profile, None)
        self._hold(profile, frozenset())
        self._held.pop(profile, None)

    def _settle(self, profile: ProfileKey) -> None:
        """Lets go of what was held on to, once all that is wanted is known."""
        wanted = self._wanted.get(profile, frozenset())
        if all(self._watched[key].synced for key in wanted):
            if self._held.get(profile) != wanted:
                self._hold(profile, wanted)
            self._counted([profile])

    def _hold(self, profile: ProfileKey, keys: frozenset[WatchKey]) -> None:
        before = self._held.get(profile, frozenset())
        self._held[profile] = keys
        for key in before - keys:
            self._watched[key].profiles.discard(profile)
            self._touched(list(self._watched[key].nodes))
        for key in keys - before:
            self._add(key, profile)
        for key in before - keys:
            if not self._watched[key].profiles:
                self._drop(key)

    def _add(self, key: WatchKey, profile: ProfileKey) -> None:
        watched = self._watched.get(key)
        if watched is not None:
            watched.profiles.add(profile)
            self._touched(list(watched.nodes))
            return
        watched = self._watched[key] = _Watched(profiles={profile})

        def tell(change: Upsert[Any] | Delete | Synced) -> None:
            if self._watched.get(key) is watched:  # one that has ended may still be in the middle of a page
                self._take(key, watched, change)

        watched.end = self._open(pods_of(key), tell)

    def _drop(self, key: WatchKey) -> None:
        watched = self._watched.pop(key)
        watched.end()
        for uid in list(watched.uids):
            self._forget(uid, key, watched)
        self._shared = {keys: keys for keys in self._shared if key not in keys}

    # --- what the watches tell ----------------------------------------------------------------------------------------

    def _take(self, key: WatchKey, watched: _Watched, change: Upsert[Any] | Delete | Synced) -> None:
        if isinstance(change, Upsert):
            self._put(selected(change.object), key, watched)
        elif isinstance(change, Delete):
            self._forget(change.uid, key, watched)
        elif not watched.synced:
            watched.synced = True
            for profile in list(watched.profiles):
                self._settle(profile)

    def _put(self, pod: SelectedPod, key: WatchKey, watched: _Watched) -> None:
        before = self._pods.get(pod.uid)
        if pod.ended:
            self._forget(pod.uid, key, watched)
            return
        joined = pod.uid not in watched.uids
        watched.uids.add(pod.uid)
        if joined:
            self._keys[pod.uid] = self._share(self._keys.get(pod.uid, frozenset()) | {key})
        if before is not None and before.version > pod.version:
            pod = before  # another watch has told of a newer form already
        self._keep(pod, before)
        if before is None or before.node != pod.node:
            if before is not None:
                self._move(before, pod, {key} if joined else set())
            if pod.node:
                self._nodes.setdefault(pod.node, set()).add(pod.uid)
        if joined:
            _count(watched, pod.node, 1)
            self._counted(watched.profiles)
        if joined or before is None or _plan_part(before) != _plan_part(pod):
            self._touched({node for node in (pod.node, before.node if before else "") if node})

    def _keep(self, pod: SelectedPod, before: SelectedPod | None) -> None:
        self._pods[pod.uid] = pod
        if before is not None:
            self.addresses.remove(before.node, before.addresses)
        self.addresses.add(pod.node, pod.addresses)

    def _forget(self, uid: str, key: WatchKey, watched: _Watched) -> None:
        if uid not in watched.uids:
            return
        watched.uids.discard(uid)
        self._counted(watched.profiles)
        if node := self._pods[uid].node:
            _count(watched, node, -1)
            self._touched([node])
        if keys := self._keys[uid] - {key}:
            self._keys[uid] = self._share(keys)
        else:
            del self._keys[uid]
            pod = self._pods.pop(uid)
            self.addresses.remove(pod.node, pod.addresses)
            self._leave(pod)

    def _share(self, keys: frozenset[WatchKey]) -> frozenset[WatchKey]:
        """The same object for the same watches: tens of thousands of pods have few sets of them."""
        return self._shared.setdefault(keys, keys)

    def _move(self, before: SelectedPod, pod: SelectedPod, joined: set[WatchKey]) -> None:
        """It is on another node than before, for all who have told of it but those that join now."""
        self._leave(before)
        for key in self._keys[pod.uid] - joined:
            _count(self._watched[key], before.node, -1)
            _count(self._watched[key], pod.node, 1)

    def _leave(self, pod: SelectedPod) -> None:
        if (uids := self._nodes.get(pod.node)) is not None:
            uids.discard(pod.uid)
            if not uids:
                del self._nodes[pod.node]

    # --- what others ask ----------------------------------------------------------------------------------------------

    def is_synced(self) -> bool:
        """Whether every watch has told all that was there when it began."""
        return all(watched.synced for watched in self._watched.values())

    def on_node(self, node: str) -> list[tuple[SelectedPod, frozenset[WatchKey]]]:
        """The pods of a node by uid, each with the watches that select it."""
        return [(self._pods[uid], self._keys[uid]) for uid in sorted(self._nodes.get(node, ()))]

    def profiles_of(self, keys: Iterable[WatchKey]) -> set[ProfileKey]:
        """Whose watches these are."""
        return set().union(*(self._watched[key].profiles for key in keys))

    def profiles_on(self, node: str) -> set[ProfileKey]:
        """Those that select a pod of the node."""
        keys = {self._keys[uid] for uid in self._nodes.get(node, ())}
        return self.profiles_of(frozenset().union(*keys))

    def nodes_of(self, profile: ProfileKey) -> set[str]:
        """Where pods of the profile are."""
        return set().union(*(self._watched[key].nodes for key in self._held.get(profile, ())))

    def uids_of(self, profile: ProfileKey) -> set[str]:
        """The pods that it selects, scheduled or not."""
        return set().union(*(self._watched[key].uids for key in self._held.get(profile, ())))

    def knows(self, profile: ProfileKey) -> bool:
        """Whether what the profile selects is known by now."""
        wanted = self._wanted.get(profile)
        return wanted is not None and all(self._watched[key].synced for key in wanted)

    def __len__(self) -> int:
        return len(self._pods)

    def watches(self) -> Iterator[WatchKey]:
        """What is watched."""
        return iter(sorted(self._watched))


def _count(watched: _Watched, node: str, change: int) -> None:
    """One pod more or less of the watch on the node; a pod that is not scheduled yet is on none."""
    if node:
        watched.nodes[node] += change
        if not watched.nodes[node]:
            del watched.nodes[node]


def _plan_part(pod: SelectedPod) -> tuple[object, ...]:
    """What of a pod a plan holds: a change of anything else touches no node."""
    return (pod.node, pod.before_matches, pod.after_matches)
