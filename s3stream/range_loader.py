"""`RangeLoader`: where the committed part of streams is, as the catalog has it; read ahead for streams opened soon.

What a stream holds may be tens of thousands of rows of the catalog. Who is about to open one reads them before
(`preload`); the opening then looks only at objects that are newer, as far as their ids tell. Ids are given out ahead of
commits and out of their order, by a few; if what is found does not meet what was read ahead, everything is read anew.

Nothing here depends on what was read ahead being true: an object that compaction has replaced meanwhile is missed by a
reader, who then looks again, as with any other index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from s3stream.catalog.api import Catalog, ObjectInfo, StreamInfo, StreamRange
from s3stream.committed_ranges import CommittedRanges, ObjectRef
from s3stream.retry import Retry

OBJECT_IDS_OVERLAP = 256
"""Newer objects are looked for from so many ids before the largest that was read ahead."""
PRELOADED_MAX_S = 60.0
_OBJECTS_PER_TURN = 500
_RANGES_PER_TURN = 1000
"""Objects and ranges handled before the event loop gets its turn."""

Located = list[tuple[StreamRange, ObjectRef]]


class _Preloaded:
    __slots__ = ("deadline", "last_object_id", "ranges")

    def __init__(self, ranges: CommittedRanges, last_object_id: int, deadline: float) -> None:
        self.ranges = ranges
        self.last_object_id = last_object_id
        self.deadline = deadline


class RangeLoader:
    def __init__(self, catalog: Catalog, retry: Retry) -> None:
        self._catalog = catalog
        self._retry = retry
        self._preloaded: dict[int, _Preloaded] = {}

    async def load(self, starts: Mapping[int, int]) -> list[CommittedRanges]:
        """Of streams (id -> start offset), in this order."""
        found = await locate(await self._retry("load objects", self._catalog.live_objects, list(starts)), starts)
        return await build_each(found[stream_id] for stream_id in starts)

    async def preload(self, stream_ids: Sequence[int]) -> None:
        """Read ahead for streams that are opened within `PRELOADED_MAX_S`. Raises CatalogError."""
        objects = await self._catalog.live_objects(stream_ids)
        deadline = asyncio.get_running_loop().time() + PRELOADED_MAX_S
        self._forget_old()
        last_object_id = max((info.object_id for info in objects), default=0)
        found = await locate(objects, dict.fromkeys(stream_ids, 0))
        for stream_id, ranges in zip(found, await build_each(found.values()), strict=True):
            self._preloaded[stream_id] = _Preloaded(ranges, last_object_id, deadline)

    async def load_opened(self, infos: Sequence[StreamInfo]) -> list[CommittedRanges]:
        """Of streams that were just opened, so that nobody commits to them, in this order."""
        self._forget_old()
        preloaded = {info.stream_id: self._preloaded.pop(info.stream_id, None) for info in infos}
        ready: dict[int, CommittedRanges] = {}
        known = {stream_id: each for stream_id, each in preloaded.items() if each is not None}
        if known:
            after = max(0, min(each.last_object_id for each in known.values()) - OBJECT_IDS_OVERLAP)
            newer = await self._retry("load objects", self._catalog.live_objects, list(known), after)
            found = await locate(newer, {info.stream_id: info.start_offset for info in infos})
            for info in infos:
                if info.stream_id in known:
                    ranges = known[info.stream_id].ranges
                    if extend(ranges, found[info.stream_id], info):
                        ready[info.stream_id] = ranges
        rest = {info.stream_id: info.start_offset for info in infos if info.stream_id not in ready}
        if rest:
            ready.update(zip(rest, await self.load(rest), strict=True))
        return [ready[info.stream_id] for info in infos]

    def _forget_old(self) -> None:
        now = asyncio.get_running_loop().time()
        for stream_id in [stream_id for stream_id, each in self._preloaded.items() if each.deadline <= now]:
            del self._preloaded[stream_id]


async def locate(objects: Iterable[ObjectInfo], starts: Mapping[int, int]) -> dict[int, Located]:
    """By stream, in the order of object ids; what is below the starts (stream id -> offset) is left out."""
    found: dict[int, Located] = {stream_id: [] for stream_id in starts}
    for number, info in enumerate(objects, 1):
        ref = ObjectRef(info.object_id, info.key, info.size, info.shared)
        for part in info.ranges:
            if part.end_offset > starts[part.stream_id]:
                found[part.stream_id].append((part, ref))
        if number % _OBJECTS_PER_TURN == 0:
            await asyncio.sleep(0)
    return found


async def build_ranges(located: Located) -> CommittedRanges:
    """The ranges of one stream. Raises InvariantBroken."""
    ranges = CommittedRanges()
    for number, (part, ref) in enumerate(sorted(located, key=_start_of), 1):
        ranges.append(part, ref)
        if number % _RANGES_PER_TURN == 0:
            await asyncio.sleep(0)
    return ranges


async def build_each(located: Iterable[Located]) -> list[CommittedRanges]:
    """The ranges of many streams, most of which have a few. Raises InvariantBroken."""
    built: list[CommittedRanges] = []
    since_turn = 0
    for each in located:
        built.append(await build_ranges(each))
        since_turn += 1 + len(each)
        if since_turn >= _RANGES_PER_TURN:
            since_turn = 0
            await asyncio.sleep(0)
    return built


def extend(ranges: CommittedRanges, newer: Located, info: StreamInfo) -> bool:
    """Add to what was read before what came since, up to the end that `info` tells at least; False if the two leave
    something out."""
    read_ahead = ranges.infos()
    end = read_ahead[-1].end_offset if read_ahead else info.start_offset
    for part, ref in sorted(newer, key=_start_of):
        # what lies before is in what was read ahead, or has taken its place
        if part.end_offset > end:
            if part.start_offset > end or (read_ahead and part.start_offset < end):
                return False
            ranges.append(part, ref)
            end = part.end_offset
    ranges.trim(info.start_offset)
    return end >= info.end_offset or (not ranges.infos() and info.start_offset == info.end_offset)


def _start_of(each: tuple[StreamRange, ObjectRef]) -> int:
    return each[0].start_offset
