"""Rewrites ranges of one open stream: merges neighbours, or lets a filter decide what stays.

What a filter drops leaves no hole: the next batch covers the offsets in front of it as well, and the last batch of an
output is one that ends where the input ended, if need be without records. So every offset is still found, as the first
batch at or after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from s3stream.api import InvariantBroken
from s3stream.compaction.replacement import Located, Replacement
from s3stream.compaction.source import ObjectSource
from s3stream.compaction.target import Target, Uploads
from s3stream.compaction.throttle import Throttle
from s3stream.object.writer import Batch
from s3stream.objectstore.api import ObjectStore
from s3stream.upload_pipeline import Offload

CHUNK_SIZE = 1 << 20
"""Bytes of batches that a filter is given at once."""


class BatchFilter(Protocol):
    """Decides about batches, in order of offsets. A batch that it returns keeps the offset after its last one."""

    async def filter(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """What stays of these, changed or not."""

    async def seal(self) -> Batch | None:
        """The last batch given to `filter`, without its records, if it was dropped."""

    async def before_commit(self) -> None:
        """What was returned since the last call is uploaded, and about to become the truth."""


class StreamReader:
    """Reads located ranges front to back, in chunks."""

    def __init__(self, store: ObjectStore, throttle: Throttle, offload: Offload) -> None:
        self._store = store
        self._throttle = throttle
        self._offload = offload
        self.bytes_read = 0

    async def chunks(self, located: Sequence[Located]) -> AsyncIterator[list[Batch]]:
        """Batches of these ranges. A chunk ends with its range at the latest. Raises StoreError, ObjectCorrupt."""
        for each, ref in located:
            source = ObjectSource(self._store, ref, self._throttle, self._offload)
            chunk: list[Batch] = []
            size = 0
            async for _, _, batches, part_size in source.parts([each]):
                chunk += batches
                size += part_size
                if size >= CHUNK_SIZE:
                    yield chunk
                    chunk, size = [], 0
            if chunk:
                yield chunk
            self.bytes_read += source.bytes_read


async def merge(stream_id: int, located: Sequence[Located], reader: StreamReader, uploads: Uploads) -> Replacement:
    """One object out of these neighbours."""
    target = Target()
    async for batches in reader.chunks(located):
        target.add(stream_id, batches, _size(batches))
    return Replacement(located, [await uploads.put(target)])


async def filtered(
    stream_id: int,
    located: Sequence[Located],
    batch_filter: BatchFilter,
    reader: StreamReader,
    uploads: Uploads,
    target_size: int,
) -> AsyncIterator[Replacement]:
    """Replacements, each to be committed before the next is asked for. They end where ranges of the input end."""
    target = Target()
    inputs: list[Located] = []
    covered = located[0][0].start_offset if located else 0
    for number, (each, ref) in enumerate(located):
        inputs.append((each, ref))
        async for batches in reader.chunks([(each, ref)]):
            kept = _covering(await batch_filter.filter(batches), covered)
            if kept:
                target.add(stream_id, kept, _size(kept))
                covered = kept[-1][0] + kept[-1][1]
        if target.size < target_size and number + 1 < len(located):
            continue
        if covered < each.end_offset:
            sealed = await batch_filter.seal()
            if sealed is None or sealed[0] + sealed[1] != each.end_offset:
                raise InvariantBroken(f"stream {stream_id}: a filter left nothing at {covered}-{each.end_offset}")
            target.add(stream_id, _covering([sealed], covered), len(sealed[3]))
            covered = each.end_offset
        added = [await uploads.put(target)]
        await batch_filter.before_commit()
        yield Replacement(inputs, added)
        inputs = []


def _covering(batches: Sequence[Batch], covered: int) -> list[Batch]:
    """The same batches, each from where the one before ended."""
    found: list[Batch] = []
    for base_offset, count, timestamp, data in batches:
        end_offset = base_offset + count
        found.append((covered, end_offset - covered, timestamp, data))
        covered = end_offset
    return found


def _size(batches: Sequence[Batch]) -> int:
    return sum([len(batch[3]) for batch in batches])
