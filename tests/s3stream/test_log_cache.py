from __future__ import annotations

import sys
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream.log_cache import BATCH_OVERHEAD, LogCache, Tail

BATCH = st.tuples(st.integers(0, 2), st.integers(1, 5), st.binary(min_size=1, max_size=40))
OPERATION = st.one_of(BATCH, st.just("seal"), st.just("seal awaited"), st.just("commit"))


def open_cache(capacity: int) -> LogCache:
    cache = LogCache(capacity)
    cache.alarm_position = sys.maxsize
    return cache


@settings(max_examples=200)
@given(st.lists(OPERATION, max_size=60), st.integers(0, 5_000))
def test_what_is_not_evicted_is_read_whole_and_in_order(operations: list[object], capacity: int) -> None:
    cache = open_cache(capacity)
    tails = [Tail(stream_id, 1, 0) for stream_id in range(3)]
    tails[0].awaits_commit = True
    model: list[list[tuple[int, int, bytes]]] = [[], [], []]
    sealed = []
    for operation in operations:
        if operation == "seal" and cache.current.starts:
            sealed.append(cache.seal(0))
        elif operation == "seal awaited" and cache.current.awaited:
            sealed.append(cache.seal_awaited(0))
        elif operation == "commit" and sealed:
            cache.commit(sealed.pop(0))
        elif isinstance(operation, tuple):
            stream_id, count, data = operation
            tail = tails[stream_id]
            model[stream_id].append((tail.end_offset, tail.end_offset + count, data))
            cache.append(tail, tail.end_offset + count, data, 0)
        assert cache.evicted <= cache.committed, "what is not committed was evicted"
        assert cache.size <= max(capacity, cache.unuploaded_size) + cache.current_size
        assert cache.unuploaded_size == sum(block.size for block in sealed) + cache.current_size
        assert cache.current_size == sum(tail.accounted_size(start) for tail, start in cache.current.starts.items())
        for block in (*sealed, cache.current):
            assert all(tail.start_offset <= start for tail, start in block.starts.items()), "evicted, yet not committed"
    for tail, batches in zip(tails, model, strict=True):
        for max_size in (1, 50, 10_000):
            for offset in range(tail.end_offset):
                found = tail.read(offset, max_size, tail.end_offset)
                if offset < tail.start_offset:
                    assert found is None
                    continue
                assert found is not None
                expected = [batch for batch in batches if batch[1] > offset and batch[1] <= found.next_offset]
                assert list(found.buffers) == [data for _, _, data in expected]
                assert found.size == sum(len(data) for _, _, data in expected)
                assert found.size <= max_size or len(expected) == 1
                rest = [batch for batch in batches if batch[0] == found.next_offset]
                assert not rest or found.size + len(rest[0][2]) > max_size


@given(st.lists(BATCH, min_size=1, max_size=40), st.integers(1, 10))
def test_blocks_cut_the_append_sequence_without_gap(batches: list[tuple[int, int, bytes]], every: int) -> None:
    cache = open_cache(10**9)
    tails = [Tail(stream_id, 1, 0) for stream_id in range(3)]
    blocks = []
    for number, (stream_id, count, data) in enumerate(batches, 1):
        tail = tails[stream_id]
        cache.append(tail, tail.end_offset + count, data, number)
        if number % every == 0:
            blocks.append(cache.seal(0))
    if cache.current.starts:
        blocks.append(cache.seal(0))
    for tail in tails:
        parts = [tail.slice(block.starts[tail], block.ends[tail]) for block in blocks if tail in block.starts]
        pieces = [batch for part in parts for batch in part.batches]
        offset = 0
        for base, count, _, _ in pieces:
            assert base == offset
            offset += count
        assert offset == tail.end_offset
        assert [piece[3] for piece in pieces] == [data for stream_id, _, data in batches if stream_id == tail.stream_id]
        assert sum(part.size for part in parts) == tail.end_position


def test_a_read_stops_before_a_batch_that_begins_at_the_end_offset() -> None:
    cache = open_cache(10**9)
    tail = Tail(1, 1, 100)
    for _ in range(5):
        cache.append(tail, tail.end_offset + 10, b"x" * 10, 0)
    found = tail.read(105, 1_000, 121)
    assert found is not None
    assert (found.next_offset, found.size) == (130, 30)
    found = tail.read(105, 1_000, 120)
    assert found is not None
    assert (found.next_offset, found.size) == (120, 20)


def test_the_accounted_size_is_not_below_the_memory_that_tiny_batches_take() -> None:
    frame = memoryview(bytes(1000))
    tail = Tail(1, 1, 1_000_000)
    cache = open_cache(10**9)
    count = 20_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(count):
        cache.append(tail, tail.end_offset + 1, frame[:70], 1_700_000_000_000 + number)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / count <= BATCH_OVERHEAD
