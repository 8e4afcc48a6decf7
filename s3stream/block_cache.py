"""Reads of committed objects: block cache, index cache, read-ahead."""

from __future__ import annotations

from collections.abc import Sequence

from s3stream.api import FetchResult
from s3stream.objectstore.api import ObjectStore


class BlockReader:
    """Reads streams out of objects through a byte-bounded cache of verified blocks."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        cache_size: int = 128 << 20,
        index_cache_size: int = 16 << 20,
        read_ahead_size_max: int = 16 << 20,
    ) -> None:
        self._store = store

    def try_read(
        self, object_key: str, object_size: int, stream_id: int, offset: int, max_size: int, end_offset: int
    ) -> FetchResult | None:
        """As `read` if the first block is in memory, without waiting; else None."""
        raise NotImplementedError

    async def read(
        self,
        object_key: str,
        object_size: int,
        stream_id: int,
        offset: int,
        max_size: int,
        end_offset: int,
        following: Sequence[tuple[str, int]] = (),
    ) -> FetchResult:
        """Whole batches from the one that contains `offset` on, out of this object only.

        At least one batch if the object holds `offset` and `end_offset` allows it; no batch that begins at or after
        `end_offset`, not more than `max_size` bytes besides the first batch. `following` are (key, size) of the objects
        in which the stream goes on: read-ahead crosses into them. Raises ObjectCorrupt, StoreError.
        """
        raise NotImplementedError

    async def seek_timestamp(self, object_key: str, object_size: int, stream_id: int, timestamp: int) -> int | None:
        """The start offset of the stream's first block in this object whose max timestamp is >= `timestamp`, or None."""
        raise NotImplementedError

    def forget(self, object_key: str) -> None:
        """Drop what is cached of an object that has been deleted."""

    async def close(self) -> None:
        """Cancel and await what is being read ahead."""
