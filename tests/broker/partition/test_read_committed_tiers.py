"""What a read_committed reader gets is the same whichever tier it comes from: log cache, block cache, objects."""

from __future__ import annotations

import asyncio
import random

from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from broker.partition.log_view import READ_COMMITTED
from broker.partition.opening import recover_state
from broker.partition.partition import Partition
from broker.partition.verification import NOT_REQUIRED
from s3stream.stream import S3Stream
from tests.broker.partition.batches import NOW_MS, batch
from tests.broker.partition.committed_reader import visible_offsets
from tests.s3stream.rig import Rig, running, turn
from tests.s3stream.sim.virtual_loop import virtual

CONFIG = TopicConfig.resolve({}, BrokerConfig())
PRODUCERS = (1, 2, 3)
HANGING = 9


async def opened(streams: list[S3Stream]) -> Partition:
    log, state = streams
    return Partition("t", bytes(16), 0, 1, log, state, CONFIG, await recover_state(log, state))


async def write(partition: Partition, rng: random.Random, count: int, sequences: dict[int, int]) -> None:
    """Interleaved transactions, half of them aborted, all of them ended; slowly enough for uploads to keep up."""
    ongoing: set[int] = set()

    def append(producer: int) -> None:
        data = batch(
            [bytes(rng.randrange(50, 400))] * rng.randrange(1, 4),
            producer_id=producer,
            epoch=0,
            sequence=sequences.get(producer, 0),
            transactional=True,
        )
        appended = partition.append_as_leader(
            memoryview(data), NOW_MS, transactional_id="tx", verification=NOT_REQUIRED
        )
        sequences[producer] = sequences.get(producer, 0) + appended.end_offset - appended.base_offset

    for _ in range(count):
        producer = rng.choice(PRODUCERS)
        if producer in ongoing and rng.random() < 0.4:
            partition.append_marker(producer, 0, 0, rng.random() < 0.5, NOW_MS, 1)
            ongoing.discard(producer)
        else:
            append(producer)
            ongoing.add(producer)
        await asyncio.sleep(0.1)
    for producer in sorted(ongoing):
        partition.append_marker(producer, 0, 0, rng.random() < 0.5, NOW_MS, 1)
    await turn()


async def answers(partition: Partition, max_size: int) -> dict[str, object]:
    """Everything that readers can learn: records from every offset on, and the abort lists of whole ranges."""
    stable = partition.last_stable_offset
    seen: dict[int, list[int]] = {}
    for start in range(partition.log_start_offset, stable, 7):
        offset = start
        visible: list[int] = []
        while offset < stable:
            found = partition.read(offset, max_size, READ_COMMITTED)
            if found is None:
                found = await partition.fetch(offset, max_size, READ_COMMITTED)
            aborted = partition.aborted_transactions(offset, found.next_offset)
            visible += visible_offsets(found.buffers, aborted, offset)
            offset = found.next_offset
        seen[start] = visible
    return {"stable": stable, "seen": seen, "aborted": partition.aborted_transactions(0, stable)}


@virtual
async def test_the_answers_do_not_depend_on_the_tier() -> None:
    rng = random.Random(11)
    rig = Rig()
    sequences: dict[int, int] = {}
    async with running(rig) as streams:
        partition = await opened(streams)
        await write(partition, rng, 30, sequences)
        in_memory = await answers(partition, 1000)
        assert partition.read(0, 1000, READ_COMMITTED) is not None
        await write(partition, rng, 250, sequences)
        assert partition.read(0, 1000, READ_COMMITTED) is None, "nothing was evicted"
        mixed = await answers(partition, 1000)
        assert (await answers(partition, 20_000))["seen"] == mixed["seen"]
        for start, visible in in_memory["seen"].items():  # type: ignore[attr-defined]
            longer = mixed["seen"][start]  # type: ignore[index]
            assert [offset for offset in longer if offset < in_memory["stable"]] == visible
        await partition.close(NOW_MS)
    async with running(rig) as streams:
        partition = await opened(streams)
        assert partition.read(0, 1000, READ_COMMITTED) is None
        assert await answers(partition, 1000) == mixed
        assert await answers(partition, 1000) == mixed


@virtual
async def test_an_open_transaction_bounds_readers_in_every_tier() -> None:
    rng = random.Random(12)
    rig = Rig()
    sequences: dict[int, int] = {}
    async with running(rig) as streams:
        partition = await opened(streams)
        await write(partition, rng, 20, sequences)
        hanging_since = partition.log_end_offset
        data = batch([b"hangs"], producer_id=HANGING, epoch=0, sequence=0, transactional=True)
        partition.append_as_leader(memoryview(data), NOW_MS, transactional_id="other", verification=NOT_REQUIRED)
        await write(partition, rng, 250, sequences)
        assert partition.last_stable_offset == hanging_since < partition.high_watermark
        cold = await answers(partition, 1000)
        assert (await partition.fetch(hanging_since, 1000, READ_COMMITTED)).size == 0
        await partition.close(NOW_MS)
    async with running(rig) as streams:
        partition = await opened(streams)
        assert partition.transaction_ongoing(HANGING, 0)
        assert await answers(partition, 1000) == cold
        partition.append_marker(HANGING, 0, 0, False, NOW_MS, 1)
        await turn()
        assert partition.last_stable_offset == partition.high_watermark
        assert (HANGING, hanging_since) in partition.aborted_transactions(0, partition.high_watermark)
        await answers(partition, 1000)
        await partition.close(NOW_MS)
