"""Rewrites set objects: many streams' small parts become fewer and larger ones.

The sources are read side by side in order of stream ids, so that all of a stream comes together and memory is
bounded by a piece of each. A job ends at a stream's end after `job_size` or `OBJECTS_MAX`; the sources then keep what
was not reached, and the next job goes on there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from heapq import heappop, heappush

from s3stream.catalog.api import NewObject, ObjectInfo, StreamRange
from s3stream.committed_ranges import ObjectRef
from s3stream.compaction.plan import Limits, SetPlan
from s3stream.compaction.replacement import Replacement
from s3stream.compaction.source import ObjectSource, Part
from s3stream.compaction.target import Target, Uploads
from s3stream.object.writer import Batch

OBJECTS_MAX = 500
"""New objects after which a job commits: they are committed as one transaction, before the first becomes an orphan."""
PARTS_PER_TURN = 64
"""Blocks, often tiny ones, that are handled before the event loop gets its turn."""


class SetRewriting:
    """One job: `infos` and `sources` are the plan's inputs, with what of them is live."""

    def __init__(
        self,
        plan: SetPlan,
        infos: Sequence[ObjectInfo],
        sources: Sequence[ObjectSource],
        uploads: Uploads,
        limits: Limits,
    ) -> None:
        self._plan = plan
        self._infos = infos
        self._uploads = uploads
        self._sources = sources
        self._limits = limits
        self._sizes: defaultdict[int, int] = defaultdict(int)
        for info in infos:
            for each in info.ranges:
                self._sizes[each.stream_id] += each.size
        self._sets = Target()
        self._own = Target()
        self._added: list[tuple[NewObject, ObjectRef]] = []

    async def run(self) -> Replacement:
        """Read, build and upload. Raises StoreError, ObjectCorrupt."""
        read = 0
        stream_id = -1
        async with aclosing(self._merged()) as merged:
            async for number, (each, _, batches, size) in merged:
                if each != stream_id:
                    await self._end_stream()
                    if read >= self._limits.job_size or len(self._added) >= OBJECTS_MAX:
                        break
                    stream_id = each
                read += size
                await self._add(stream_id, batches, size)
                if number % PARTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        await self._end_stream()
        await self._put(self._sets)
        return self._replacement(stream_id)

    async def _merged(self) -> AsyncGenerator[tuple[int, Part], None]:
        """All parts by stream and offset, numbered."""
        readers = [source.parts(sorted(info.ranges)) for source, info in zip(self._sources, self._infos, strict=True)]
        heads: list[tuple[int, int, int, Part]] = []

        async def advance(which: int) -> None:
            async for part in readers[which]:
                heappush(heads, (part[0], part[1], which, part))
                return

        for which in range(len(readers)):
            await advance(which)
        number = 0
        while heads:
            _, _, which, part = heappop(heads)
            number += 1
            yield number, part
            await advance(which)

    async def _add(self, stream_id: int, batches: list[Batch], size: int) -> None:
        is_own = self._plan.split_all or self._sizes[stream_id] >= self._limits.split_size
        target, size_max = (self._own, self._limits.target_size) if is_own else (self._sets, self._limits.set_size)
        target.add(stream_id, batches, size)
        if target.size >= size_max:
            await self._put(target)

    async def _end_stream(self) -> None:
        await self._put(self._own)

    async def _put(self, target: Target) -> None:
        if target.size:
            self._added.append(await self._uploads.put(target, self._plan.generation))

    def _replacement(self, last_stream_id: int) -> Replacement:
        removed: list[tuple[StreamRange, ObjectRef]] = []
        for info in self._infos:
            ref = ObjectRef(info.object_id, info.key, info.size, info.shared)
            removed += [(each, ref) for each in info.ranges if each.stream_id <= last_stream_id]
        return Replacement(removed, self._added)
