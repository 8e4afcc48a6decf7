"""What a BlockReader promises: the right batches, each block read once, bounded memory, read-ahead that adapts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from s3stream.api import FetchResult, ObjectCorrupt
from s3stream.block_cache import BlockReader, _assemble, _wanted
from s3stream.object.writer import Batch, build_object
from s3stream.objectstore.api import ObjectMissing, StoreUnreachable
from s3stream.objectstore.memory import MemoryStore
from wal.api import Buffer

BATCH_SIZE = 1000
BLOCK_SIZE = 4000
END = 2**62


class CountingStore(MemoryStore):
    """Remembers ranged reads; can hold them back or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        self.reads.append((key, start, end))
        await self.gate.wait()
        if self.failing:
            raise StoreUnreachable("down")
        return await super().get_range(key, start, end)


def batches(start_offset: int, count: int, seed: int) -> list[Batch]:
    rng = random.Random(seed)
    return [(start_offset + n, 1, 1000 * (start_offset + n), rng.randbytes(BATCH_SIZE)) for n in range(count)]


async def put(store: MemoryStore, key: str, streams: Sequence[tuple[int, list[Batch]]]) -> int:
    built = build_object(streams, BLOCK_SIZE)
    await store.put(key, built.pieces)
    return built.size


def cached_size(reader: BlockReader) -> int:
    """Bytes of blocks and indexes in memory."""
    return reader._blocks.size + reader._index_size


def read_cached(
    reader: BlockReader, object_key: str, stream_id: int, offset: int, max_size: int, end_offset: int
) -> FetchResult | None:
    """As `BlockReader.read` if the first block is in memory, without waiting; else None. May return less."""
    index = reader._cached_index(object_key)
    if index is None:
        return None
    entries, number = _wanted(index, stream_id, offset, max_size, end_offset)
    blocks = []
    for entry in entries:
        block = reader._blocks.get((object_key, entry.position))
        if block is None:
            break
        blocks.append(block)
    if entries and not blocks:
        return None
    result = _assemble(blocks, offset, max_size, end_offset)
    if blocks:
        state = reader._read_ahead.observe(stream_id, offset, result.next_offset)
        reader._start_read_ahead(state, object_key, index, stream_id, number, ())
    return result


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def reader(store: CountingStore) -> AsyncIterator[BlockReader]:
    reader = BlockReader(store)
    yield reader
    await reader.close()


async def settle() -> None:
    """Let what was started in the background finish: the store answers at once."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read_all(reader: BlockReader, key: str, size: int, stream_id: int, offset: int, max_size: int) -> bytes:
    parts: list[Buffer] = []
    while True:
        result = await reader.read(key, size, stream_id, offset, max_size, END)
        if not result.buffers:
            return b"".join(parts)
        assert result.size == sum(map(len, result.buffers))
        parts += result.buffers
        offset = result.next_offset


@pytest.mark.parametrize("max_size", [0, 1, 999, 1000, 2500, 4000, 9000, 10**6])
async def test_a_stream_is_read_whole_at_any_step(store: CountingStore, reader: BlockReader, max_size: int) -> None:
    mine = batches(100, 30, 1)
    size = await put(store, "o", [(1, batches(0, 7, 0)), (2, mine), (3, batches(5, 9, 2))])
    assert await read_all(reader, "o", size, 2, 100, max_size) == b"".join(batch[3] for batch in mine)


async def test_a_read_respects_size_and_end_offset(store: CountingStore, reader: BlockReader) -> None:
    mine = batches(0, 30, 1)
    size = await put(store, "o", [(1, mine)])
    for offset in (0, 3, 4, 17, 29):
        for max_size in (0, 1000, 1999, 5000, 7999):
            for end_offset in (0, offset, offset + 1, offset + 3, 30):
                result = await reader.read("o", size, 1, offset, max_size, end_offset)
                expected = [batch for batch in mine if offset <= batch[0] < end_offset][: max(1, max_size // 1000)]
                assert b"".join(result.buffers) == b"".join(batch[3] for batch in expected)
                assert result.next_offset == (expected[-1][0] + 1 if expected else offset)
                again = read_cached(reader, "o", 1, offset, max_size, end_offset)
                assert again == result


async def test_what_the_object_does_not_hold_is_empty(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 3, 0))])
    for stream_id, offset in ((1, 3), (2, 0), (0, 0)):
        result = await reader.read("o", size, stream_id, offset, 1000, END)
        assert (list(result.buffers), result.next_offset) == ([], offset)


async def test_a_hit_needs_no_waiting(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 3, 0))])
    assert read_cached(reader, "o", 1, 0, 5000, END) is None
    result = await reader.read("o", size, 1, 0, 5000, END)
    reads = len(store.reads)
    assert read_cached(reader, "o", 1, 0, 5000, END) == result
    assert len(store.reads) == reads


async def test_many_readers_of_one_block_cause_one_read(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 3, 0))])
    store.gate.clear()
    readers = [asyncio.create_task(reader.read("o", size, 1, 0, 5000, END)) for _ in range(10)]
    await settle()
    readers[0].cancel()
    store.gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(result == results[1] for result in results[1:])
    assert len(store.reads) == 2, "one for the index, one for the block"


async def test_neighbouring_blocks_are_fetched_with_one_request(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 40, 0))])
    await reader.read("o", size, 1, 0, 40 * BATCH_SIZE, END)
    assert len(store.reads) == 2


async def test_memory_is_bounded(store: CountingStore) -> None:
    reader = BlockReader(store, cache_size=10 * BLOCK_SIZE, index_cache_size=500)
    sizes = {f"o{n}": await put(store, f"o{n}", [(n, batches(0, 20, n))]) for n in range(10)}
    for n, (key, size) in enumerate(sizes.items()):
        assert await read_all(reader, key, size, n, 0, 3000) == b"".join(batch[3] for batch in batches(0, 20, n))
        assert cached_size(reader) <= 10 * BLOCK_SIZE + 500
    await reader.close()


async def test_reading_ahead_begins_when_a_reader_goes_on_where_it_stopped(store: CountingStore) -> None:
    reader = BlockReader(store, read_ahead_size_max=5 * BLOCK_SIZE)
    size = await put(store, "o", [(1, batches(0, 200, 0))])
    first = await reader.read("o", size, 1, 0, BLOCK_SIZE, END)
    await settle()
    before = len(store.reads)
    second = await reader.read("o", size, 1, first.next_offset, BLOCK_SIZE, END)
    await settle()
    assert len(store.reads) > before
    assert read_cached(reader, "o", 1, second.next_offset, BLOCK_SIZE, END) is not None
    assert read_cached(reader, "o", 1, 199, BLOCK_SIZE, END) is None, "not further than the window"
    await reader.close()


async def test_random_reads_do_not_read_ahead(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 200, 0))])
    for offset in (150, 20, 80):
        await reader.read("o", size, 1, offset, BATCH_SIZE, END)
        await settle()
    assert len(store.reads) == 4


async def test_reading_ahead_goes_on_in_the_next_object(store: CountingStore) -> None:
    reader = BlockReader(store)
    first = await put(store, "a", [(1, batches(0, 8, 0))])
    second = await put(store, "b", [(1, batches(8, 8, 1))])
    offset = 0
    while offset < 8:
        offset = (await reader.read("a", first, 1, offset, 2000, END, [("b", second)])).next_offset
        await settle()
    assert read_cached(reader, "b", 1, 8, 2000, END) is not None
    await reader.close()


async def test_reading_ahead_starts_anew_when_its_blocks_are_evicted_unread(store: CountingStore) -> None:
    reader = BlockReader(store, cache_size=24 * BLOCK_SIZE, read_ahead_size_max=6 * BLOCK_SIZE)
    big = await put(store, "big", [(1, batches(0, 400, 0))])
    offset = 0
    for _ in range(3):
        offset = (await reader.read("big", big, 1, offset, BLOCK_SIZE, END)).next_offset
        await settle()
    other = await put(store, "other", [(2, batches(0, 400, 1))])
    for start in range(0, 400, 40):
        await reader.read("other", other, 2, start, 20 * BATCH_SIZE, END)
    await settle()
    before = len(store.reads)
    state = reader._read_ahead._readers[1, offset]
    assert state.window == 0
    await reader.read("big", big, 1, offset, BLOCK_SIZE, END)
    assert len(store.reads) > before
    await reader.close()


async def test_two_readers_of_one_stream_do_not_disturb_each_other(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 200, 0))])
    offsets = [0, 100]
    for _ in range(4):
        for n in range(2):
            offsets[n] = (await reader.read("o", size, 1, offsets[n], BATCH_SIZE, END)).next_offset
            await settle()
    for offset in offsets:
        assert read_cached(reader, "o", 1, offset, BATCH_SIZE, END) is not None


async def test_a_failed_read_is_not_remembered(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 3, 0))])
    store.failing = True
    with pytest.raises(StoreUnreachable):
        await reader.read("o", size, 1, 0, 5000, END)
    store.failing = False
    assert (await reader.read("o", size, 1, 0, 5000, END)).next_offset == 3


async def test_a_missing_object_says_so(reader: BlockReader) -> None:
    with pytest.raises(ObjectMissing):
        await reader.read("gone", 5000, 1, 0, 5000, END)


async def test_a_damaged_block_is_never_returned(store: CountingStore, reader: BlockReader) -> None:
    built = build_object([(1, batches(0, 3, 0))], BLOCK_SIZE)
    data = bytearray(b"".join(built.pieces))
    data[1500] ^= 4
    await store.put("o", [data])
    for _ in range(2):
        with pytest.raises(ObjectCorrupt, match="o, position 0"):
            await reader.read("o", built.size, 1, 2, 5000, END)


async def test_a_time_is_found_by_the_index(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 12, 0)), (2, batches(0, 4, 1))])
    for timestamp, offset in ((-5, 0), (0, 0), (3000, 0), (3001, 4), (11_000, 8), (11_001, None)):
        assert await reader.seek_timestamp("o", size, 1, timestamp) == offset


async def test_a_forgotten_object_is_read_again(store: CountingStore, reader: BlockReader) -> None:
    size = await put(store, "o", [(1, batches(0, 3, 0))])
    await reader.read("o", size, 1, 0, 5000, END)
    reader.forget("o")
    assert cached_size(reader) == 0
    assert read_cached(reader, "o", 1, 0, 5000, END) is None


class DamagedOnce(MemoryStore):
    """Each answer is damaged the first time that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, int, int]] = set()

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        data = bytearray(await super().get_range(key, start, end))
        if (key, start, end) not in self.seen:
            self.seen.add((key, start, end))
            data[len(data) // 2] ^= 1
        return data


async def test_what_was_damaged_on_its_way_is_read_again() -> None:
    store = DamagedOnce()
    size = await put(store, "k", [(1, batches(0, 20, 1))])
    reader = BlockReader(store)
    found = await reader.read("k", size, 1, 0, 1 << 20, END)
    assert b"".join(found.buffers) == b"".join(data for _, _, _, data in batches(0, 20, 1))
    await reader.close()


async def test_a_backfill_leaves_the_blocks_of_others_in_memory() -> None:
    store = CountingStore()
    often = await put(store, "often", [(1, batches(0, 20, 1))])
    keys = [f"old-{number}" for number in range(12)]
    sizes = [await put(store, key, [(2, batches(400 * number, 400, number))]) for number, key in enumerate(keys)]
    reader = BlockReader(store, cache_size=2 << 20, read_ahead_size_max=256 << 10)
    await reader.read("often", often, 1, 0, 1 << 20, END)
    offset = 0
    while offset < 400 * len(keys):
        number = offset // 400
        following = list(zip(keys[number + 1 : number + 3], sizes[number + 1 : number + 3], strict=True))
        found = await reader.read(keys[number], sizes[number], 2, offset, 64 << 10, END, following)
        assert found.next_offset > offset
        offset = found.next_offset
    reads = len(store.reads)
    await reader.read("often", often, 1, 0, 1 << 20, END)
    assert len(store.reads) == reads, "it was evicted by a reader who needs everything only once"
    assert cached_size(reader) <= (2 << 20) + (1 << 20)
    await reader.close()
