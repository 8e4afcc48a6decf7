"""A stream as the catalog knows it: what is committed of it can be read, whoever has it open.

It is never opened, so it disturbs nobody, and it is only as new as what it was given last (`take`). Objects may be
replaced or deleted under it: a read then raises ObjectMissing, and its owner looks into the catalog again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from s3stream.api import FetchResult, OffsetOutOfRange
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import Catalog, ObjectInfo, StreamInfo, StreamRange
from s3stream.committed_ranges import CommittedRanges, ObjectRef


class CommittedStream:
    """`start_offset` and `end_offset` bound what can be read. Empty until something is taken."""

    __slots__ = ("_ranges", "_reader", "end_offset", "info", "start_offset", "stream_id")

    def __init__(self, stream_id: int, reader: BlockReader) -> None:
        self.stream_id = stream_id
        self.start_offset = 0
        self.end_offset = 0
        self.info: StreamInfo | None = None
        """What the catalog said when the ranges were loaded."""
        self._reader = reader
        self._ranges = CommittedRanges()

    @property
    def range_count(self) -> int:
        return len(self._ranges)

    def take(self, info: StreamInfo, ranges: CommittedRanges) -> None:
        """Go on with what the catalog has now."""
        infos = ranges.infos()
        self.info = info
        self.start_offset = info.start_offset
        self.end_offset = max(infos[-1].end_offset, info.start_offset) if infos else info.start_offset
        self._ranges = ranges

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        """Whole batches from the one that contains `offset` on, out of one object; none that begins at `end_offset`.

        Raises OffsetOutOfRange, ObjectMissing, ObjectCorrupt, StoreError.
        """
        if not self.start_offset <= offset <= self.end_offset:
            raise OffsetOutOfRange(
                f"stream {self.stream_id}: {offset} is not within [{self.start_offset}, {self.end_offset}]"
            )
        found = self._ranges.find(offset)
        if found is None or offset >= end_offset:
            return FetchResult((), 0, offset)
        return await self._reader.read(
            found.ref.key,
            found.ref.size,
            self.stream_id,
            offset,
            max_size,
            min(end_offset, found.end_offset),
            found.following,
        )


async def load_committed(
    catalog: Catalog, streams: Sequence[CommittedStream], anew: Collection[CommittedStream] = ()
) -> None:
    """Bring them up to date, all at once: of those that did not change nothing more is asked for, but for `anew`.

    A stream that is gone becomes empty. Raises CatalogError, InvariantBroken if what was read does not fit together,
    because objects were committed or replaced meanwhile: then nothing was taken.
    """
    infos = {info.stream_id: info for info in await catalog.stream_infos([each.stream_id for each in streams])}
    changed = [each for each in streams if infos.get(each.stream_id) != each.info or each in anew]
    starts = {each.stream_id: infos[each.stream_id].start_offset for each in changed if each.stream_id in infos}
    ranges = group_ranges(await catalog.live_objects(list(starts)), starts) if starts else {}
    for stream in changed:
        info = infos.get(stream.stream_id)
        if info is None:
            info = StreamInfo(stream.stream_id, 0, False, None, stream.end_offset, stream.end_offset)
        stream.take(info, ranges.get(stream.stream_id, CommittedRanges()))


def group_ranges(objects: Sequence[ObjectInfo], starts: Mapping[int, int]) -> dict[int, CommittedRanges]:
    """The ranges of these streams (id -> start offset), out of objects that hold some of them."""
    found: dict[int, list[tuple[StreamRange, ObjectRef]]] = {stream_id: [] for stream_id in starts}
    for info in objects:
        ref = ObjectRef(info.object_id, info.key, info.size, info.shared)
        for part in info.ranges:
            if part.end_offset > starts[part.stream_id]:
                found[part.stream_id].append((part, ref))
    return {stream_id: CommittedRanges.of(parts) for stream_id, parts in found.items()}
