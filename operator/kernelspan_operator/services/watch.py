# SPDX-License-Identifier: Apache-2.0
"""List and watch of one collection, for ever, through every way in which a watch can end.

The consumer is told Upsert and Delete of objects and, once after each list, Synced. Whatever happened in between, what
it was told adds up to what the server holds: a list is compared with what was told before, and what is missing in it is
deleted. A watch is taken up where it ended while the server knows that place (bookmarks keep it fresh); where not
(410 Gone, as a status or as an event), a list follows. A watch that says nothing for longer than the server keeps one
open is dead and is given up. (Kubernetes API concepts: efficient detection of changes; client-go's Reflector.)
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec

from kernelspan_api.objects import Meta, Metadata
from kernelspan_operator.errors import ApiError
from kernelspan_operator.models.watched import SILENCE_SECONDS

from .kube import REQUEST_SECONDS, Kube, message_of

T = TypeVar("T", bound=Any)

PAGE = 500  # client-go's default page
WATCH_SECONDS = 290  # a server ends a watch by itself after this long
BACKOFF_SECONDS = (0.2, 10.0)  # an API server that comes back finds hundreds of watches waiting, not thousands
# Of one operator: hundreds of watches begin together, and each list is some MB. A server sends whoever asks for much
# more at once away (429: flow control queues 300 requests of one account).
BEGINNINGS_AT_ONCE = 4
FAILURES_TO_LIST_ANEW = 8  # the place may be one that this server will never reach: etcd was restored from a backup
REFUSALS = (400, 401, 403, 404, 413, 414, 431)  # not of a server that is busy or ill
MAX_LINE_BYTES = 8 << 20  # etcd's limit is 1.5 MiB for an object
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collection(Generic[T]):
    """What is watched: `path` below the server, the type of its objects, and the selectors that the server applies."""

    path: str
    type: type[T]
    label_selector: str = ""
    field_selector: str = ""
    metadata_only: bool = False

    def query(self, **more: str) -> dict[str, str]:
        """The query of a request."""
        selectors = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in (selectors | more).items() if value}


@dataclass(frozen=True, slots=True)
class Upsert(Generic[T]):
    """An object is there, or is there in another form."""

    object: T


@dataclass(frozen=True, slots=True)
class Delete:
    """An object is not there any more, or is not selected any more."""

    uid: str


@dataclass(frozen=True, slots=True)
class Synced:
    """All that a list held has been told."""


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _SilentError(ApiError):
    """Nothing came for longer than a server that lives says nothing."""


class _GoneError(Exception):
    """The place where the watch would go on is not known to the server any more."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; tests make them short."""

    watch: int = WATCH_SECONDS
    silence: float = SILENCE_SECONDS
    backoff: tuple[float, float] = BACKOFF_SECONDS


@dataclass(slots=True)
class Watch(Generic[T]):
    """One list and watch; `run` it in a task, cancel the task to end it. `tell` gets each Upsert, Delete, Synced."""

    kube: Kube
    collection: Collection[T]
    tell: Callable[[Upsert[T] | Delete | Synced], object]
    timing: Timing = field(default_factory=Timing)
    refused: Callable[[ApiError], object] = lambda _error: None  # told of each answer that the request itself earns
    restarted: Callable[[str], object] = lambda _reason: None  # told why a list or a watch begins anew
    listing: Callable[[], object] = lambda: (
        None
    )  # told that a list begins: what was there by now, and still is, is in it
    random: random.Random = field(default_factory=random.Random)
    at_once: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(BEGINNINGS_AT_ONCE)
    )  # lists, beginnings
    _told: dict[str, str] = field(default_factory=dict)  # uid to resourceVersion
    _version: str = ""
    _failures: int = 0

    async def run(self) -> None:
        """Never ends by itself, and raises nothing but bugs."""
        while True:
            try:
                if not self._version:
                    async with self.at_once:
                        await self._list()
                await self._watch()
                self.restarted("Ended")
            except _GoneError:
                self._version = ""
                self.restarted("Gone")
                continue
            except (ApiError, aiohttp.ClientError, OSError, ValueError, msgspec.MsgspecError) as error:
                self._failures += 1
                self.restarted(_why(error))
                _log.warning("watch.failed path=%s message=%s", self.collection.path, error)
                if self._failures % FAILURES_TO_LIST_ANEW == 0:
                    self._version = ""
                if isinstance(error, ApiError) and error.status in REFUSALS:
                    self.refused(error)
            if self._failures:
                await asyncio.sleep(self._delay())

    def _delay(self) -> float:
        lowest, highest = self.timing.backoff
        longest = min(highest, lowest * float(2 ** min(self._failures - 1, 16)))
        return longest * self.random.uniform(0.5, 1.0)

    # --- list -------------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        self.listing()
        seen: dict[str, str] = {}
        token = ""
        headers = {"Accept": METADATA_LIST_ONLY} if self.collection.metadata_only else None
        while True:
            query = self.collection.query(**{"limit": str(PAGE), "continue": token})
            try:
                data = await self.kube.request("list", "GET", self.collection.path, query=query, headers=headers)
            except ApiError as error:
                if error.status == 410 and token:  # the list took so long that its beginning is forgotten
                    raise _GoneError from error
                raise
            page = msgspec.json.decode(data, type=_List)
            for raw in page.items or ():
                found = msgspec.json.decode(raw, type=self.collection.type)
                meta: Meta = found.metadata
                seen[meta.uid] = meta.resource_version
                if self._told.get(meta.uid) != meta.resource_version:
                    self._told[meta.uid] = meta.resource_version
                    self.tell(Upsert(found))
            token = page.metadata.continue_
            if not token:
                break
        for uid in [uid for uid in self._told if uid not in seen]:
            del self._told[uid]
            self.tell(Delete(uid))
        self._version = page.metadata.resource_version
        self._failures = 0
        self.tell(Synced())

    # --- watch ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        query = self.collection.query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=self._version,
            timeoutSeconds=str(self.timing.watch),
        )
        headers = {"Accept": METADATA_ONLY} if self.collection.metadata_only else None
        request = self.kube.open("watch", "GET", self.collection.path, query=query, headers=headers)
        try:
            async with self.at_once, asyncio.timeout(REQUEST_SECONDS):
                answer = await request.__aenter__()
        except (aiohttp.ClientError, OSError):
            self.kube.count("watch", "none")
            raise
        self.kube.heard("watch", answer)
        try:
            if answer.status == 410:
                raise _GoneError
            if answer.status >= 400:
                message = message_of(await answer.content.read(4096))
                raise ApiError(answer.status, f"watch {self.collection.path}: {answer.status}: {message}")
            await self._follow(answer)
        finally:
            answer.close()

    async def _follow(self, answer: aiohttp.ClientResponse) -> None:
        """Until the server ends it, or is silent for too long. One that ends without a word counts as a failure."""
        rest, events = b"", 0
        while True:
            try:
                async with asyncio.timeout(self.timing.silence):
                    chunk = await answer.content.readany()
            except TimeoutError:
                raise _SilentError(0, f"watch {self.collection.path}: silent for {self.timing.silence:g} s") from None
            if not chunk:
                self._failures += not events
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise ApiError(0, f"watch {self.collection.path}: an event of more than {MAX_LINE_BYTES} bytes")
            for line in lines:
                if line.strip():
                    events += 1
                    self._take(msgspec.json.decode(line, type=_Event))

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            if status.code == 410:
                raise _GoneError
            raise ApiError(status.code, f"watch {self.collection.path}: {status.code}: {status.message}")
        self._failures = 0
        if event.type == "BOOKMARK":
            self._version = msgspec.json.decode(event.object, type=Metadata).metadata.resource_version
            return
        found = msgspec.json.decode(event.object, type=self.collection.type)
        meta: Meta = found.metadata
        self._version = meta.resource_version
        if event.type == "DELETED":
            if self._told.pop(meta.uid, None) is not None:
                self.tell(Delete(meta.uid))
        elif event.type in ("ADDED", "MODIFIED"):
            self._told[meta.uid] = meta.resource_version
            self.tell(Upsert(found))


def _why(error: Exception) -> str:
    """Ended, Gone, Silent, Refused or Failed: the labels of a metric."""
    if isinstance(error, _SilentError):
        return "Silent"
    return "Refused" if isinstance(error, ApiError) and error.status in REFUSALS else "Failed"
