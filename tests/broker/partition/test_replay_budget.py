"""A successor has little to replay, however many partitions a broker leads, and snapshots stay cheap."""

from __future__ import annotations

from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from broker.partition.opening import empty_state, recover_state
from broker.partition.partition import Partition
from broker.partition.replay_budget import INTERVAL_MIN, REPLAYED_SIZE_MAX, SNAPSHOT_SHARE, ReplayBudget
from tests.broker.partition.batches import NOW_MS, batch
from tests.broker.partition.fake_stream import FakeStream

CONFIG = TopicConfig.resolve({}, BrokerConfig())
VALUE = bytes(10_000)


def opened(replay: ReplayBudget) -> tuple[Partition, FakeStream, FakeStream]:
    log, state = FakeStream(1), FakeStream(2)
    return Partition("t", bytes(16), 0, 1, log, state, CONFIG, empty_state(), replay=replay), log, state


async def test_what_all_partitions_of_a_broker_leave_to_replay_is_bounded() -> None:
    replay = ReplayBudget()
    replay.share_among(8)
    partitions = [opened(replay) for _ in range(8)]
    for _ in range(REPLAYED_SIZE_MAX // len(VALUE) // 4):
        for partition, *_ in partitions:
            partition.append_as_leader(memoryview(batch([VALUE])), NOW_MS)
    left = 0
    for _, log, state in partitions:
        log.flush()
        state.flush()
        left += (await recover_state(log, state)).replayed_size
    assert 0 < left <= REPLAYED_SIZE_MAX + len(partitions) * 2 * len(VALUE)


async def test_a_partition_that_takes_much_is_snapshotted_less_often() -> None:
    """... per byte: `interval` apart at a low rate, `interval_max` at a high one."""

    def snapshots(ms_per_append: int) -> int:
        partition, _, state = opened(ReplayBudget())
        for number in range(3 * REPLAYED_SIZE_MAX // len(VALUE)):
            partition.append_as_leader(memoryview(batch([VALUE])), NOW_MS + number * ms_per_append)
        return len(state.batches)

    assert snapshots(ms_per_append=1) == 12
    assert snapshots(ms_per_append=0) == 3, "after 4, 20 and 36 MiB: the first one follows none"


async def test_partitions_of_a_broker_with_very_many_are_not_snapshotted_all_the_time() -> None:
    replay = ReplayBudget()
    replay.share_among(100_000)
    assert replay.interval == INTERVAL_MIN


async def test_a_large_snapshot_is_repeated_only_after_many_times_its_size() -> None:
    replay = ReplayBudget()
    replay.interval = 1
    partition, log, state = opened(replay)
    for producer_id in range(400):
        partition.append_as_leader(memoryview(batch(producer_id=producer_id, epoch=0, sequence=0)), NOW_MS)
    before = state.next_offset
    size = len(state.batches[-1][2])
    appended = 0
    while state.next_offset == before:
        start = len(log.batches)
        partition.append_as_leader(memoryview(batch([VALUE])), NOW_MS)
        appended += len(log.batches[start][2])
    assert appended >= size * SNAPSHOT_SHARE - 2 * len(VALUE)
