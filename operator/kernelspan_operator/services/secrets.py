# SPDX-License-Identifier: Apache-2.0
"""Secrets for exporters: only those that their owner has released by a label, and only where a profile names one.

One watch for each namespace in which a profile needs a Secret, with the label as its selector: the API server leaves
out all others, and who may not read Secrets of a namespace is told so in the profile's status. A label that is taken
away ends the export at once, as a Secret that is deleted does. A ClusterTraceProfile's are in the operator's own
namespace: else whoever makes one could read any namespace's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from kernelspan_api.control import control_pb2
from kernelspan_api.objects import Secret
from kernelspan_operator.errors import ApiError
from kernelspan_operator.models.exporter import Held, Needs, held, needed
from kernelspan_operator.models.profiles import CLUSTER_KIND, Profile, ProfileKey

from .watch import Collection, Delete, Synced, Upsert
from .watches import OpenWatch

LABEL = "kernelspan.io/exporter=true"
# An API server that has just started refuses everybody for a moment, until it has read the roles.
REFUSALS_TO_BELIEVE = 4


@dataclass(slots=True)
class _Namespace:
    """One watch, and who needs it."""

    end: Callable[[], object] = lambda: None
    synced: bool = False
    refusals: int = 0
    needs: dict[ProfileKey, Needs] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # by uid
    data: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by name

    @property
    def is_known(self) -> bool:
        return self.synced or self.refusals >= REFUSALS_TO_BELIEVE


class Secrets:
    """What each profile's exporter needs. `judged(key, problem)` is told of a profile when that is known, and again
    whenever it is otherwise than before.
    """

    def __init__(self, open_watch: OpenWatch, namespace: str, judged: Callable[[ProfileKey, str], object]) -> None:
        self._open, self._own, self._judged = open_watch, namespace, judged
        self._namespaces: dict[str, _Namespace] = {}
        self._held: dict[ProfileKey, Held] = {}

    def put(self, profile: Profile) -> None:
        """The profile as it is now."""
        needs = needed(profile.spec) if profile.spec is not None else Needs()
        place = self._place(profile.key)
        if not needs:
            self.remove(profile.key)
            return
        found = self._namespaces.get(place)
        if found is None:
            found = self._namespaces[place] = _Namespace(needs={profile.key: needs})
            self._follow(place, found)
            return
        found.needs[profile.key] = needs
        if found.is_known:
            self._held.pop(profile.key, None)  # told again, since the profile is a new one
            self._judge(place, found, profile.key)

    def remove(self, key: ProfileKey) -> None:
        """The profile is gone, or needs nothing."""
        self._held.pop(key, None)
        place = self._place(key)
        if (found := self._namespaces.get(place)) is not None and key in found.needs:
            del found.needs[key]
            if found.needs:
                return
            del self._namespaces[place]
            found.end()

    def of(self, profile: Profile) -> control_pb2.ExportSecret | None:
        """What goes to the nodes with the profile; None: nothing."""
        found = self._held.get(profile.key)
        if found is None or found.problem:
            return None
        return control_pb2.ExportSecret(
            profile_uid=profile.uid,
            headers=found.headers,
            ca=found.ca,
            certificate=found.certificate,
            key=found.key,
        )

    def is_synced(self) -> bool:
        """Whether every Secret that is named is known, or known not to be had."""
        return all(one.is_known for one in self._namespaces.values())

    # --- one namespace ------------------------------------------------------------------------------------------------

    def _place(self, key: ProfileKey) -> str:
        return self._own if key.kind == CLUSTER_KIND else key.namespace

    def _follow(self, place: str, found: _Namespace) -> None:
        path = f"/api/v1/namespaces/{quote(place, safe='')}/secrets"

        def tell(change: Upsert[Any] | Delete | Synced) -> None:
            if self._namespaces.get(place) is found:
                self._take(place, found, change)

        def refused(_error: ApiError) -> None:
            if self._namespaces.get(place) is found and not found.synced:
                found.refusals += 1
                if found.refusals == REFUSALS_TO_BELIEVE:
                    self._judge_all(place, found)

        found.end = self._open(Collection(path, Secret, label_selector=LABEL), tell, refused)

    def _take(self, place: str, found: _Namespace, change: Upsert[Any] | Delete | Synced) -> None:
        if isinstance(change, Upsert):
            meta = change.object.metadata
            found.names[meta.uid] = meta.name
            found.data[meta.name] = change.object.data or {}
        elif isinstance(change, Delete):
            name = found.names.pop(change.uid, "")
            if name not in found.names.values():  # else it was made anew under its name before
                found.data.pop(name, None)
        else:
            found.synced = True
        if found.synced:
            self._judge_all(place, found)

    def _judge_all(self, place: str, found: _Namespace) -> None:
        for key in list(found.needs):
            self._judge(place, found, key)

    def _judge(self, place: str, found: _Namespace, key: ProfileKey) -> None:
        if found.synced:
            now = held(found.needs[key], found.data)
        else:
            now = Held(
                f"the operator may not list Secrets of namespace {place}. "
                "Give its service account the verbs list and watch on Secrets there"
            )
        if self._held.get(key) != now:
            self._held[key] = now
            self._judged(key, f"{now.problem}." if now.problem else "")
