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
from itertools import pairwise

from s3stream.catalog.api import Catalog, ObjectInfo, StreamInfo, StreamRange
from s3stream.committed_ranges import CommittedRanges, ObjectRef
from s3stream.retry import Retry

OBJECT_IDS_OVERLAP = 256
"""Newer objects are looked for from so many ids before the largest that was read ahead."""
PRELOADED_MAX_S = 60.0
_OBJECTS_PER_TURN = 500
"""Objects handled before the event loop gets its turn."""

_Located = list[tuple[StreamRange, ObjectRef]]


class _Preloaded:
    __slots__ = ("deadline", "last_object_id", "located")

    def __init__(self, located: _Located, last_object_id: int, deadline: float) -> None:
        self.located = located
        self.last_object_id = last_object_id
        self.deadline = deadline


class RangeLoader:
    def __init__(self, catalog: Catalog, retry: Retry) -> None:
        self._catalog = catalog
        self._retry = retry
        self._preloaded: dict[int, _Preloaded] = {}

    async def load(self, starts: Mapping[int, int]) -> list[CommittedRanges]:
        """Of streams (id -> start offset), in this order."""
        found = await self._locate(await self._retry("load objects", self._catalog.live_objects, list(starts)), starts)
        return [CommittedRanges.of(found[stream_id]) for stream_id in starts]

    async def preload(self, stream_ids: Sequence[int]) -> None:
        """Read ahead for streams that are opened within `PRELOADED_MAX_S`. Raises CatalogError."""
        objects = await self._catalog.live_objects(stream_ids)
        deadline = asyncio.get_running_loop().time() + PRELOADED_MAX_S
        self._forget_old()
        last_object_id = max((info.object_id for info in objects), default=0)
        for stream_id, located in (await self._locate(objects, dict.fromkeys(stream_ids, 0))).items():
            located.sort(key=_start_of)
            self._preloaded[stream_id] = _Preloaded(located, last_object_id, deadline)

    async def load_opened(self, infos: Sequence[StreamInfo]) -> list[CommittedRanges]:
        """Of streams that were just opened, so that nobody commits to them, in this order."""
        self._forget_old()
        preloaded = {info.stream_id: self._preloaded.pop(info.stream_id, None) for info in infos}
        ready: dict[int, CommittedRanges] = {}
        known = {stream_id: each for stream_id, each in preloaded.items() if each is not None}
        if known:
            after = max(0, min(each.last_object_id for each in known.values()) - OBJECT_IDS_OVERLAP)
            newer = await self._retry("load objects", self._catalog.live_objects, list(known), after)
            found = await self._locate(newer, {info.stream_id: info.start_offset for info in infos})
            for info in infos:
                if info.stream_id in known:
                    joined = _join(known[info.stream_id].located, found[info.stream_id], info)
                    if joined is not None:
                        ready[info.stream_id] = CommittedRanges.of(joined)
        rest = {info.stream_id: info.start_offset for info in infos if info.stream_id not in ready}
        if rest:
            ready.update(zip(rest, await self.load(rest), strict=True))
        return [ready[info.stream_id] for info in infos]

    async def _locate(self, objects: Iterable[ObjectInfo], starts: Mapping[int, int]) -> dict[int, _Located]:
        """By stream, in the order of object ids; what is below the starts is left out."""
        found: dict[int, _Located] = {stream_id: [] for stream_id in starts}
        for number, info in enumerate(objects, 1):
            ref = ObjectRef(info.object_id, info.key, info.size, info.shared)
            for part in info.ranges:
                if part.end_offset > starts[part.stream_id]:
                    found[part.stream_id].append((part, ref))
            if number % _OBJECTS_PER_TURN == 0:
                await asyncio.sleep(0)
        return found

    def _forget_old(self) -> None:
        now = asyncio.get_running_loop().time()
        for stream_id in [stream_id for stream_id, each in self._preloaded.items() if each.deadline <= now]:
            del self._preloaded[stream_id]


def _join(known: _Located, newer: _Located, info: StreamInfo) -> _Located | None:
    """All of the stream, or None if the two leave something out."""
    end = known[-1][0].end_offset if known else 0
    joined = [each for each in known if each[0].end_offset > info.start_offset]
    joined += sorted((each for each in newer if each[0].start_offset >= end), key=_start_of)
    if not joined:
        return joined if info.start_offset == info.end_offset else None
    begins = joined[0][0].start_offset <= info.start_offset
    meets = all(one[0].end_offset == other[0].start_offset for one, other in pairwise(joined))
    return joined if begins and meets and joined[-1][0].end_offset == info.end_offset else None


def _start_of(each: tuple[StreamRange, ObjectRef]) -> int:
    return each[0].start_offset
