"""Batches on their way into a new object: collected, built off the event loop, uploaded under a registered key."""

from __future__ import annotations

from collections.abc import Sequence

from s3stream.catalog.api import NewObject
from s3stream.committed_ranges import ObjectRef
from s3stream.compaction.throttle import Throttle
from s3stream.object.writer import Batch, BuiltObject, build_object
from s3stream.object_ids import ObjectIds
from s3stream.objectstore.api import ObjectStore
from s3stream.upload_pipeline import Offload

OBJECT_SIZE_MIN = 256 << 10
"""What a new object counts as at least: thousands of tiny ones, each a PUT and a row, are no small work either."""


class Target:
    """Collects parts in order of stream ids and offsets; `size` is their payload's."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, list[Batch]]] = []
        self.size = 0

    def add(self, stream_id: int, batches: Sequence[Batch], size: int) -> None:
        if not self._parts or self._parts[-1][0] != stream_id:
            self._parts.append((stream_id, []))
        self._parts[-1][1].extend(batches)
        self.size += size

    def take(self) -> list[tuple[int, list[Batch]]]:
        """What was collected; it is empty then."""
        parts, self._parts, self.size = self._parts, [], 0
        return parts


class Uploads:
    """Puts objects; `bytes_written` and `count` say what."""

    def __init__(self, store: ObjectStore, ids: ObjectIds, throttle: Throttle, offload: Offload) -> None:
        self._store = store
        self._ids = ids
        self._throttle = throttle
        self._offload = offload
        self.bytes_written = 0
        self.count = 0

    async def put(self, target: Target, generation: int = 0) -> tuple[NewObject, ObjectRef]:
        """Raises StoreError; what was prepared then is left to the cleaner."""
        parts = target.take()

        def build() -> BuiltObject:
            return build_object(parts)

        built = await self._offload(build)
        await self._throttle.take(max(built.size, OBJECT_SIZE_MIN))
        object_id, key = await self._ids.take()
        await self._store.put(key, built.pieces)
        self.bytes_written += built.size
        self.count += 1
        shared = built.ranges[0].stream_id != built.ranges[-1].stream_id
        new = NewObject(object_id, built.size, built.ranges, generation)
        return new, ObjectRef(object_id, key, built.size, shared)
