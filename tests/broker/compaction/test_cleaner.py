"""The cleaner over a real storage: what readers see of a partition while and after its log is compacted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.compaction.cleaner import LogCleaner
from broker.compaction.cleaning import Batch, Cleaning, CleaningInput, Filtered
from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from broker.partition.log_view import READ_COMMITTED
from broker.partition.opening import recover_state
from broker.partition.partition import Partition
from broker.partition.verification import NOT_REQUIRED
from protocol.errors import InvalidBatch
from protocol.records import decode_records, iter_batches
from s3stream.api import StorageFull
from s3stream.compaction.plan import Limits
from s3stream.stream import S3Stream
from tests.broker.partition.batches import NOW_MS, batch
from tests.broker.partition.committed_reader import visible_offsets
from tests.s3stream.rig import SMALL, Rig, running, turn
from tests.s3stream.sim.virtual_loop import virtual

NEVER = 10**9
SETTINGS = replace(SMALL, compaction_interval_ms=NEVER, clean_interval_ms=NEVER, compaction_rate=NEVER)
LIMITS = Limits(split_size=1_500, target_size=2_000, tiers=((500, 900), (900, 1_000)), run_count_max=8, fan_in=3)
RETENTION_MS = 1_000
CONFIG = TopicConfig.resolve(
    {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.1",
        "delete.retention.ms": str(RETENTION_MS),
    },
    BrokerConfig(),
)


class Inline:
    """Passes in this process. `damaged`: what is indexed counts as no records."""

    def __init__(self) -> None:
        self.damaged = False
        self.begun = 0

    async def begin(self, given: CleaningInput) -> None:
        self.begun += 1
        self.cleaning = Cleaning(given)

    async def index(self, batches: Sequence[Batch]) -> bool:
        await asyncio.sleep(0)
        if self.damaged:
            raise InvalidBatch(2, "damaged")  # type: ignore[arg-type]
        return self.cleaning.index(batches)

    async def begin_filtering(self) -> int:
        return self.cleaning.begin_filtering()

    async def filter(self, batches: Sequence[Batch]) -> Filtered:
        await asyncio.sleep(0)
        return self.cleaning.filter(batches)

    async def seal(self) -> Batch | None:
        return self.cleaning.seal()

    async def counts(self) -> tuple[int, int, int | None]:
        return self.cleaning.record_count, self.cleaning.kept_count, self.cleaning.next_horizon_ms

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bench:
    """One partition and its cleaner; `now_ms` is the cleaner's clock."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.now_ms = NOW_MS + 10_000
        self.passes = Inline()
        self.sequences: dict[int, int] = {}
        self.partition: Partition
        self.cleaner: LogCleaner

    async def open(self, streams: Sequence[S3Stream]) -> None:
        log, state = streams
        self.partition = Partition("t", bytes(16), 0, 1, log, state, CONFIG, await recover_state(log, state))
        partitions = cast("Any", SimpleNamespace(all=lambda: [self.partition]))
        compactor = self.rig.storage.compactor
        self.cleaner = LogCleaner(partitions, compactor, self.passes, BrokerConfig(), lambda: self.now_ms)

    async def produce(self, *pairs: tuple[str, str | None], producer: int = -1, transactional: bool = False) -> None:
        sequence = -1 if producer < 0 else self.sequences.get(producer, 0)
        data = batch(
            [None if value is None else value.encode() for _, value in pairs],
            keys=[key.encode() for key, _ in pairs],
            producer_id=producer,
            epoch=-1 if producer < 0 else 0,
            sequence=sequence,
            transactional=transactional,
        )
        self.partition.append_as_leader(
            memoryview(data),
            NOW_MS,
            transactional_id="tx" if transactional else None,
            verification=NOT_REQUIRED if transactional else None,
        )
        self.sequences[producer] = sequence + len(pairs)
        await self.rig.storage.upload_now()

    async def end(self, producer: int, commit: bool) -> None:
        self.partition.append_marker(producer, 0, 0, commit, NOW_MS, 1)
        await self.rig.storage.upload_now()
        await turn()

    async def read(self, offset: int = 0) -> list[tuple[int, bytes | None, bytes | None]]:
        """As a read_committed consumer."""
        seen = []
        end_offset = self.partition.last_stable_offset
        while offset < end_offset:
            found = self.partition.read(offset, 300, READ_COMMITTED)
            if found is None:
                found = await self.partition.fetch(offset, 300, READ_COMMITTED)
            assert found.next_offset > offset
            visible = set(
                visible_offsets(found.buffers, self.partition.aborted_transactions(offset, found.next_offset), offset)
            )
            for buffer in found.buffers:
                for header, data in iter_batches(buffer):
                    if not header.is_control:
                        seen += [(r.offset, r.key, r.value) for r in decode_records(data) if r.offset in visible]
            offset = found.next_offset
        return seen

    async def clean_all(self) -> int:
        count = 0
        while await self.cleaner.clean_one():
            count += 1
            assert count < 20
        return count


def a_rig() -> Rig:
    return Rig(SETTINGS, 2, limits=LIMITS)


@virtual
async def test_readers_get_the_last_of_each_key_from_every_offset_and_after_a_new_start() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        rng = random.Random(5)
        for number in range(60):
            await bench.produce(*((f"k{rng.randrange(6)}", f"{number}.{i}") for i in range(3)))
        last = {key: (offset, key, value) for offset, key, value in await bench.read()}
        assert await bench.clean_all() == 1
        expected = sorted(last.values())
        assert await bench.read() == expected
        for offset in range(0, 180, 7):
            assert await bench.read(offset) == [each for each in expected if each[0] >= offset]
        assert bench.partition.log_start_offset == 0
        assert len(streams[0].committed_ranges) < 10
        await rig.stop()
        streams = await rig.start()
        await bench.open(streams)
        assert await bench.read() == expected
        assert streams[0].compacted_offset == 180
        assert await bench.clean_all() == 0, "nothing is dirty"


@virtual
async def test_a_reader_that_goes_on_meanwhile_misses_no_key() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        rng = random.Random(6)
        for number in range(80):
            await bench.produce((f"k{rng.randrange(10)}", str(number)))
        before = await bench.read()
        rig.storage._cache.capacity = 0
        rig.storage._cache.evict()
        cleaning = asyncio.create_task(bench.clean_all())
        while not cleaning.done():
            seen = await bench.read()
            assert set(seen) <= set(before)
            assert {key: value for _, key, value in seen} == {key: value for _, key, value in before}
            await asyncio.sleep(0.000_2)
        assert await cleaning == 1


@virtual
async def test_the_active_end_and_open_transactions_are_left_alone() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        bench.now_ms = NOW_MS + 50
        await bench.produce(("a", "1"))
        await bench.produce(("a", "2"))
        assert await bench.clean_all() == 0, "younger than segment.ms"
        await bench.produce(("a", "open"), producer=7, transactional=True)
        await bench.produce(("a", "3"))
        await bench.produce(("a", "4"))
        bench.now_ms = NOW_MS + 100
        await bench.clean_all()
        assert streams[0].compacted_offset == 2, "the transaction begins there"
        await bench.end(7, commit=False)
        await bench.clean_all()
        assert [value for _, _, value in await bench.read()] == [b"4"]


@virtual
async def test_tombstones_and_markers_go_on_time_and_aborted_records_are_never_seen() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        await bench.produce(("a", "1"), ("b", "1"))
        await bench.produce(("a", None), producer=7, transactional=True)
        await bench.end(7, commit=True)
        await bench.produce(("b", "aborted"), producer=7, transactional=True)
        await bench.end(7, commit=False)
        await bench.produce(("c", "1"), producer=7, transactional=True)
        await bench.end(7, commit=True)
        expected = {b"b": b"1", b"c": b"1"}
        tombstones = []
        for _ in range(5):
            await bench.produce(("c", "1"))
            await bench.clean_all()
            seen = await bench.read()
            assert {key: value for _, key, value in seen if value is not None} == expected
            tombstones.append(sum(value is None for *_, value in seen))
            assert len(bench.partition.aborted_transactions(0, NEVER)) <= 1
            bench.now_ms += RETENTION_MS
        assert tombstones[0] == 1
        assert tombstones[-1] == 0
        assert bench.partition.aborted_transactions(0, NEVER) == []
        await rig.stop()
        await bench.open(await rig.start())
        assert bench.partition.aborted_transactions(0, NEVER) == []
        assert {key: value for _, key, value in await bench.read()} == expected
        await bench.produce(("d", "1"), producer=7, transactional=True)


@virtual
async def test_tombstones_go_without_new_data() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        await bench.produce(("a", "1"), ("b", "1"))
        await bench.produce(("a", None))
        await bench.clean_all()
        assert len(await bench.read()) == 2
        bench.now_ms += RETENTION_MS
        assert await bench.clean_all() == 1
        assert await bench.read() == [(1, b"b", b"1")]
        assert await bench.clean_all() == 0


@virtual
async def test_a_horizon_that_is_past_asks_for_no_further_pass() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        await bench.produce(("a", "1"), ("b", "1"))
        await bench.produce(("a", None), ("c", "1"))
        for _ in range(3):
            await bench.clean_all()
            bench.now_ms += 2 * RETENTION_MS
        assert await bench.read() == [(1, b"b", b"1"), (3, b"c", b"1")]
        assert await bench.clean_all() == 0


@virtual
async def test_a_log_that_cannot_be_decoded_is_left_alone() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        await bench.produce(("a", "1"))
        await bench.produce(("a", "2"))
        bench.passes.damaged = True
        assert await bench.clean_all() == 0
        assert await bench.clean_all() == 0
        assert bench.passes.begun == 1
        assert len(await bench.read()) == 2


@virtual
async def test_what_is_forgotten_of_aborted_transactions_is_on_record_though_the_first_try_fails() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        await bench.produce(("a", "1"), producer=7, transactional=True)
        await bench.end(7, commit=False)
        bench.partition.save(NOW_MS)
        snapshots = cast("Any", bench.partition)._snapshots
        real = snapshots._state
        snapshots._state = SimpleNamespace(append=_full)
        with pytest.raises(StorageFull):
            await bench.partition.forget_aborted([1])
        snapshots._state = real
        await bench.partition.forget_aborted([1])
        await rig.stop()
        await bench.open(await rig.start())
        assert bench.partition.aborted_transactions(0, NEVER) == []


def _full(*args: object) -> None:
    raise StorageFull("full")


@pytest.mark.parametrize("after", ["put", "replace_objects"])
@virtual
async def test_a_pass_that_breaks_off_is_finished_later(after: str) -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        for number in range(60):
            await bench.produce((f"k{number % 40}", "x" * 90 + str(number)))
        before = await bench.read()
        last = {key: (offset, key, value) for offset, key, value in before}
        compactor = rig.storage.compactor
        target = compactor._store if after == "put" else compactor._catalog
        real, calls = getattr(target, after), 0

        async def breaking(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise asyncio.CancelledError
            return await real(*args, **kwargs)

        wrapped = SimpleNamespace(**{after: breaking})
        wrapper = cast("Any", _Over(target, wrapped))
        name = "_store" if after == "put" else "_catalog"
        setattr(compactor, name, wrapper)
        with pytest.raises(asyncio.CancelledError):
            await bench.clean_all()
        setattr(compactor, name, target)
        seen = await bench.read()
        assert set(seen) <= set(before)
        assert {key: value for _, key, value in seen} == {key: value for _, key, value in before}
        await bench.clean_all()
        assert await bench.read() == sorted(last.values())


@virtual
async def test_a_log_whose_objects_another_broker_moved_is_compacted_all_the_same() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        for number in range(12):
            await bench.produce(("a", str(number)))
        log = streams[0]
        old = log.committed_ranges.located(log.stream_id, 0, NEVER)
        while await rig.storage.compactor.compact():
            pass
        # as in a broker that has not heard of it until they were deleted
        log.committed_ranges = type(log.committed_ranges).of(old)
        await rig.storage._cleaner.clean()
        assert not await bench.cleaner.clean_one()
        bench.cleaner._left_alone.clear()
        assert await bench.clean_all() == 1
        assert await bench.read() == [(11, b"a", b"11")]


@virtual
async def test_no_step_of_a_pass_counts_once_the_log_is_open_elsewhere() -> None:
    rig = a_rig()
    bench = Bench(rig)
    async with running(rig) as streams:
        await bench.open(streams)
        for number in range(20):
            await bench.produce((f"k{number}", "x" * 90))
        await bench.clean_all()
        log = streams[0]
        info = rig.memory_catalog.streams[log.stream_id]
        before = rig.memory_catalog.replace_count
        rig.memory_catalog.streams[log.stream_id] = replace(info, epoch=info.epoch + 1)
        keep_all = SimpleNamespace(filter=_same, seal=_nothing, before_commit=_nothing)
        assert not await rig.storage.compactor.rewrite(log, 20, cast("Any", keep_all), 20)
        assert rig.memory_catalog.replace_count == before
        rig.memory_catalog.streams[log.stream_id] = info


async def _same(batches: Sequence[Batch]) -> Sequence[Batch]:
    return batches


async def _nothing() -> None:
    return None


class _Over:
    """`patch` over `target`."""

    def __init__(self, target: object, patch: object) -> None:
        self._target = target
        self._patch = patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._patch, name, None) or getattr(self._target, name)
