"""From batches to a committed object: register -> build -> PUT -> commit.

PUTs run in parallel, a bounded number of them; commits are made strictly in the order of `submit`, because each range
has to begin where the stream's committed end is. Building (checksums, indexes) runs off the event loop. Large parts
become objects of their own, all others of what is submitted together one; they are committed together.

What goes wrong is retried for as long as it takes. A commit whose answer was lost is simply made again. Streams that
somebody else has opened since are left out of the commit, and only they. Everything else that the catalog refuses ends
the pipeline: BrokerFenced as it is, a gap between offsets as InvariantBroken.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeVar

import structlog

from s3stream.api import InvariantBroken
from s3stream.catalog.api import (
    Catalog,
    NewObject,
    ObjectGone,
    OffsetsNotContinuous,
    StreamEpochFenced,
    StreamRange,
)
from s3stream.committed_ranges import ObjectRef
from s3stream.object.writer import BuiltObject, build_object
from s3stream.object_ids import ObjectIds
from s3stream.objectstore.api import ObjectStore
from s3stream.retry import Retry
from s3stream.stream_part import StreamPart

T = TypeVar("T")

log = structlog.get_logger()


class Offload(Protocol):
    """Runs a function off the event loop; `asyncio.to_thread` does."""

    async def __call__(self, call: Callable[[], T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class UploadResult:
    """`committed`: the ranges and where they are, in order of stream ids for each object."""

    committed: Sequence[tuple[StreamRange, ObjectRef]]
    fenced_stream_ids: frozenset[int]


NOTHING = UploadResult((), frozenset())

Prepare = Callable[[], Awaitable[Sequence[StreamPart]]]
Committed = Callable[[UploadResult], Awaitable[None]]


class UploadPipeline:
    """One order of commits under one broker epoch."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        node_id: int,
        broker_epoch: int,
        ids: ObjectIds,
        retry: Retry,
        in_flight_max: int,
        offload: Offload = asyncio.to_thread,
        split_size: int = sys.maxsize,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._ids = ids
        self._retry = retry
        self._in_flight_max = in_flight_max
        self._slots = asyncio.Semaphore(in_flight_max)
        self._offload = offload
        self._split_size = split_size
        self.bytes_uploaded = 0
        """What was put and committed, since the start."""
        self.objects_uploaded = 0
        self._last = asyncio.Event()
        self._last.set()
        self.in_flight = 0
        """Submitted and not yet committed."""

    @property
    def has_room(self) -> bool:
        """What is submitted now would start at once."""
        return self.in_flight < self._in_flight_max

    def submit(self, group: asyncio.TaskGroup, prepare: Prepare, committed: Committed) -> None:
        """Upload what `prepare` returns (parts in order of stream ids), then await `committed`, in order of calls."""
        before, self._last = self._last, asyncio.Event()
        self.in_flight += 1
        group.create_task(self._run(prepare, committed, before, self._last))

    async def _run(self, prepare: Prepare, committed: Committed, before: asyncio.Event, done: asyncio.Event) -> None:
        async with self._slots:  # first come, first served, hence never held only by those who wait for `before`
            result = await self._upload(await prepare(), before)
            self.in_flight -= 1
        await committed(result)
        done.set()
        await self._ids.refill()

    async def _upload(self, parts: Sequence[StreamPart], before: asyncio.Event) -> UploadResult:
        if not parts:
            await before.wait()
            return NOTHING
        groups = list(_groups(parts, self._split_size))

        def build() -> list[BuiltObject]:
            return [build_object((part.stream_id, list(part.batches)) for part in group) for group in groups]

        built = await self._offload(build)
        epochs = {part.stream_id: part.epoch for part in parts}
        while True:
            refs = await asyncio.gather(*map(self._put, built))
            await before.wait()
            try:
                return await self._commit(built, refs, epochs)
            except ObjectGone as error:
                log.warning("the upload took so long that it was given up, uploading again", reason=str(error))

    async def _put(self, built: BuiltObject) -> ObjectRef:
        object_id, key = await self._ids.take()
        await self._retry("put object", self._store.put, key, built.pieces)
        self.bytes_uploaded += built.size
        self.objects_uploaded += 1
        return ObjectRef(object_id, key, built.size, built.ranges[0].stream_id != built.ranges[-1].stream_id)

    async def _commit(
        self, built: Sequence[BuiltObject], refs: Sequence[ObjectRef], epochs: dict[int, int]
    ) -> UploadResult:
        """Leaves out the streams that somebody else has opened since. Raises ObjectGone."""
        committed = [(found, ref) for each, ref in zip(built, refs, strict=True) for found in each.ranges]
        fenced: frozenset[int] = frozenset()
        while committed:
            added = [
                NewObject(ref.object_id, ref.size, tuple(found for found, _ in ranges))
                for ref, ranges in groupby(committed, key=lambda each: each[1])
            ]
            try:
                await self._retry(
                    "commit objects", self._catalog.commit_objects, self._node_id, self._broker_epoch, added, epochs
                )
                break
            except OffsetsNotContinuous as error:
                raise InvariantBroken(f"objects do not continue what is committed: {error}") from error
            except StreamEpochFenced as error:
                lost = await self._find_fenced(epochs)
                if not lost:
                    raise InvariantBroken(f"an upload was refused, yet its epochs are current: {error}") from error
            fenced |= lost
            committed = [each for each in committed if each[0].stream_id not in lost]
            epochs = {stream_id: epoch for stream_id, epoch in epochs.items() if stream_id not in lost}
        return UploadResult(committed, fenced)

    async def _find_fenced(self, epochs: dict[int, int]) -> frozenset[int]:
        infos = await self._retry("look up streams", self._catalog.stream_infos, list(epochs))
        current = {info.stream_id: info.epoch for info in infos if info.open}
        return frozenset(stream_id for stream_id, epoch in epochs.items() if current.get(stream_id) != epoch)


def _groups(parts: Sequence[StreamPart], split_size: int) -> Iterator[Sequence[StreamPart]]:
    """What becomes one object each. Each is in order of stream ids, as `parts` are."""
    together: list[StreamPart] = []
    for part in parts:
        if part.size >= split_size and len(parts) > 1:
            yield [part]
        else:
            together.append(part)
    if together:
        yield together
