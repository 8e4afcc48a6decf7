"""Reads of committed objects: block cache, index cache, read-ahead.

Blocks and indexes are verified before they are cached. Each is loaded at most once at a time, whoever asks; a caller
that is cancelled does not cancel a load that others share. Neighbouring blocks are fetched with one ranged GET. Runs
on one event loop.

Memory is bounded by `cache_size`, `index_cache_size`, what callers asked for (their `max_size` plus a block each), and
`read_ahead_size_max` per sequential reader, altogether a quarter of `cache_size` in flight.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import structlog

from s3stream.api import FetchResult, ObjectCorrupt
from s3stream.block_lru import BlockGroup, BlockKey, BlockLru
from s3stream.object.reader import Block, IndexEntry, NeedMore, ObjectIndex, read_block, read_index
from s3stream.objectstore.api import ObjectStore
from s3stream.read_ahead import ReadAhead, Reader
from wal.api import Buffer

MERGE_SIZE_MAX = 4 << 20
"""Largest ranged GET that neighbouring blocks are merged into."""
_Blocks = dict[BlockKey, Block]

log = structlog.get_logger()


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
        self._index_cache_size = index_cache_size
        self._read_ahead = ReadAhead(min(read_ahead_size_max, cache_size // 4))
        self._blocks = BlockLru(cache_size, self._read_ahead.wasted)
        self._indexes: OrderedDict[str, ObjectIndex] = OrderedDict()
        self._index_size = 0
        self._block_loads: dict[BlockKey, asyncio.Task[_Blocks]] = {}
        self._index_loads: dict[str, asyncio.Task[ObjectIndex]] = {}
        self._ahead_size = 0
        self._ahead_size_max = cache_size // 4
        self._closed = False
        self.hit_count = 0
        """Blocks that were asked for and found in memory, or on their way there."""
        self.miss_count = 0

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
        index = await self._index(object_key, object_size)
        entries, number = _wanted(index, stream_id, offset, max_size, end_offset)
        blocks = await self._load(object_key, entries)
        result = _assemble(blocks, offset, max_size, end_offset)
        if blocks:
            reader = self._read_ahead.observe(stream_id, offset, result.next_offset)
            self._start_read_ahead(reader, object_key, index, stream_id, number, following)
        return result

    async def seek_timestamp(self, object_key: str, object_size: int, stream_id: int, timestamp: int) -> int | None:
        """The start offset of the stream's first block here whose max timestamp is >= `timestamp`, or None."""
        index = await self._index(object_key, object_size)
        entry = index.find_timestamp(stream_id, timestamp)
        return None if entry is None else entry.start_offset

    @property
    def is_loading(self) -> bool:
        """Requests to the store are under way."""
        return bool(self._block_loads) or bool(self._index_loads)

    def forget(self, object_key: str) -> None:
        """Drop what is cached of an object that has been deleted."""
        self._blocks.forget(object_key)
        index = self._indexes.pop(object_key, None)
        if index is not None:
            self._index_size -= index.size

    async def close(self) -> None:
        """Cancel and await what is being loaded."""
        self._closed = True
        loads: list[asyncio.Task[_Blocks] | asyncio.Task[ObjectIndex]] = [*self._block_loads.values()]
        loads += self._index_loads.values()
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    # -- indexes ------------------------------------------------------------------------------------------------------

    def _cached_index(self, key: str) -> ObjectIndex | None:
        index = self._indexes.get(key)
        if index is not None:
            self._indexes.move_to_end(key)
        return index

    async def _index(self, key: str, object_size: int) -> ObjectIndex:
        index = self._cached_index(key)
        if index is not None:
            return index
        return await asyncio.shield(self._start_index_load(key, object_size))

    def _start_index_load(self, key: str, object_size: int) -> asyncio.Task[ObjectIndex]:
        load = self._index_loads.get(key)
        if load is None:
            load = asyncio.get_running_loop().create_task(self._load_index(key, object_size))
            self._index_loads[key] = load
            load.add_done_callback(lambda done: self._index_loaded(key, done))
        return load

    async def _load_index(self, key: str, object_size: int) -> ObjectIndex:
        try:
            found = await self._read_index(key, object_size)
        except ObjectCorrupt as error:
            log.warning("an index is damaged, it is read again", error=str(error))
            found = await self._read_index(key, object_size)
        self._indexes[key] = found
        self._index_size += found.size
        while self._index_size > self._index_cache_size and len(self._indexes) > 1:
            self._index_size -= self._indexes.popitem(last=False)[1].size
        return found

    async def _read_index(self, key: str, object_size: int) -> ObjectIndex:
        tail: Buffer = b""
        while isinstance(found := read_index(key, object_size, tail), NeedMore):
            tail = await self._store.get_range(key, object_size - found.size, object_size)
        return found

    def _index_loaded(self, key: str, load: asyncio.Task[ObjectIndex]) -> None:
        del self._index_loads[key]
        _mark_retrieved(load)

    # -- blocks -------------------------------------------------------------------------------------------------------

    async def _load(self, key: str, entries: Sequence[IndexEntry]) -> list[Block]:
        """The blocks of `entries`, in order."""
        found: _Blocks = {}
        missing = []
        loads: dict[asyncio.Task[_Blocks], None] = {}
        for entry in entries:
            block_key = (key, entry.position)
            block = self._blocks.get(block_key)
            if block is not None:
                found[block_key] = block
            elif (load := self._block_loads.get(block_key)) is not None:
                loads[load] = None
            else:
                missing.append(entry)
        self.hit_count += len(entries) - len(missing)
        self.miss_count += len(missing)
        for load in self._start_block_loads(key, missing, None):
            loads[load] = None
        if loads:
            # Not gather: a caller that is cancelled must not take the others' loads with it.
            await asyncio.wait(loads)
            for load in loads:
                found |= load.result()
            for entry in entries:
                self._blocks.get((key, entry.position))
        return [found[key, entry.position] for entry in entries]

    def _start_block_loads(
        self, key: str, entries: Sequence[IndexEntry], owner: Reader | None
    ) -> list[asyncio.Task[_Blocks]]:
        loads = []
        for run in _runs(entries):
            load = asyncio.get_running_loop().create_task(self._load_run(key, run, owner))
            for entry in run:
                self._block_loads[key, entry.position] = load
            load.add_done_callback(lambda done, run=run: self._run_loaded(key, run, owner, done))  # type: ignore[misc]
            if owner is not None:
                self._ahead_size += _size(run)
            loads.append(load)
        return loads

    async def _load_run(self, key: str, run: Sequence[IndexEntry], owner: Reader | None) -> _Blocks:
        try:
            blocks = await self._read_run(key, run)
        except ObjectCorrupt as error:
            # Damaged on its way, perhaps: what is damaged in the store is so the next time too.
            log.warning("a block is damaged, it is read again", error=str(error))
            blocks = await self._read_run(key, run)
        self._blocks.put(BlockGroup(blocks, owner))
        return blocks

    async def _read_run(self, key: str, run: Sequence[IndexEntry]) -> _Blocks:
        start = run[0].position
        data = memoryview(await self._store.get_range(key, start, run[-1].position + run[-1].size))
        blocks = {}
        for entry in run:
            begin = entry.position - start
            blocks[key, entry.position] = read_block(key, entry, data[begin : begin + entry.size])
        return blocks

    def _run_loaded(
        self, key: str, run: Sequence[IndexEntry], owner: Reader | None, load: asyncio.Task[_Blocks]
    ) -> None:
        for entry in run:
            del self._block_loads[key, entry.position]
        if owner is not None:
            self._ahead_size -= _size(run)
        _mark_retrieved(load)

    # -- read-ahead ---------------------------------------------------------------------------------------------------

    def _start_read_ahead(
        self,
        reader: Reader,
        key: str,
        index: ObjectIndex,
        stream_id: int,
        number: int,
        following: Sequence[tuple[str, int]],
    ) -> None:
        """Load what lies in the reader's window after entry `number`. The caller does not wait for it."""
        left = reader.window
        if left == 0 or self._closed:
            return
        todo: list[tuple[str, list[IndexEntry]]] = []
        missing_size = 0
        position = 0
        while True:
            entries = []
            while left > 0 and number < index.count:
                entry = index.entry(number)
                if entry.stream_id != stream_id:
                    break
                block_key = (key, entry.position)
                if block_key not in self._blocks and block_key not in self._block_loads:
                    entries.append(entry)
                    missing_size += entry.size
                left -= entry.size
                number += 1
            todo.append((key, entries))
            if left <= 0 or position == len(following):
                break
            key, object_size = following[position]
            position += 1
            next_index = self._cached_index(key)
            if next_index is None:
                self._start_index_load(key, object_size)
                break
            index = next_index
            first = index.find(stream_id, -1)
            number = index.count if first is None else first
        within_budget = self._ahead_size == 0 or self._ahead_size + missing_size <= self._ahead_size_max
        # In steps of half a window: fewer and bigger requests.
        if within_budget and missing_size * 2 >= reader.window - left:
            for key, entries in todo:
                self._start_block_loads(key, entries, reader)


def _wanted(
    index: ObjectIndex, stream_id: int, offset: int, max_size: int, end_offset: int
) -> tuple[list[IndexEntry], int]:
    """The blocks to read, and the number of the entry after them."""
    number = index.find(stream_id, offset)
    entries: list[IndexEntry] = []
    if number is None:
        return entries, index.count
    size = 0
    while number < index.count and (not entries or size < max_size):
        entry = index.entry(number)
        if entry.stream_id != stream_id or entry.start_offset >= end_offset:
            break
        entries.append(entry)
        # Of the first block an unknown part lies before the offset.
        size += entry.size if len(entries) > 1 else 0
        number += 1
    return entries, number


def _assemble(blocks: Sequence[Block], offset: int, max_size: int, end_offset: int) -> FetchResult:
    buffers: list[Buffer] = []
    size = 0
    for block in blocks:
        if buffers and block.first_batch_size > max_size - size:
            break
        data, next_offset = block.slice(offset, max_size - size, end_offset)
        if not data:
            break
        buffers.append(data)
        size += len(data)
        offset = next_offset
        if next_offset < block.end_offset:
            break
    return FetchResult(buffers, size, offset)


def _runs(entries: Sequence[IndexEntry]) -> list[list[IndexEntry]]:
    """Neighbours in the object, together not more than MERGE_SIZE_MAX."""
    runs: list[list[IndexEntry]] = []
    for entry in entries:
        if runs:
            last = runs[-1][-1]
            adjacent = last.position + last.size == entry.position
            if adjacent and entry.position + entry.size - runs[-1][0].position <= MERGE_SIZE_MAX:
                runs[-1].append(entry)
                continue
        runs.append([entry])
    return runs


def _size(run: Sequence[IndexEntry]) -> int:
    return run[-1].position + run[-1].size - run[0].position


def _mark_retrieved(load: asyncio.Task[_Blocks] | asyncio.Task[ObjectIndex]) -> None:
    """Nobody may be waiting for what was read ahead; a failure then concerns nobody."""
    if not load.cancelled():
        load.exception()
