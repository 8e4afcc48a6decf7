from __future__ import annotations

from broker.retention import Retention, retained_from
from s3stream.api import RangeInfo
from tests.broker.handlers_data.node import NOW_MS, Node
from tests.broker.partition.batches import batch

RANGES = [RangeInfo(0, 10, 100, 1000), RangeInfo(10, 20, 100, 3000), RangeInfo(20, 30, 100, 2000)]


def test_by_age_up_to_the_first_range_that_is_young() -> None:
    assert retained_from(RANGES, 0, 300, 4500, 2000, -1) == 10
    assert retained_from(RANGES, 0, 300, 3001, 2000, -1) == 10
    assert retained_from(RANGES, 0, 300, 3000, 2000, -1) == 0
    assert retained_from(RANGES, 0, 300, 9999, 2000, -1) == 30


def test_by_size_as_long_as_enough_remains() -> None:
    assert retained_from(RANGES, 0, 300, 0, -1, 200) == 10
    assert retained_from(RANGES, 0, 300, 0, -1, 201) == 0
    assert retained_from(RANGES, 0, 350, 0, -1, 50) == 30


def test_minus_one_keeps_everything() -> None:
    assert retained_from(RANGES, 0, 300, 10**15, -1, -1) == 0


def test_a_range_without_timestamps_does_not_age() -> None:
    assert retained_from([RangeInfo(0, 10, 100, -1)], 0, 100, 10**15, 1, -1) == 0


def test_the_start_never_goes_back() -> None:
    assert retained_from(RANGES, 5, 300, 0, -1, -1) == 5


async def test_expired_records_are_gone_from_reads_at_once() -> None:
    node = Node()
    topic = await node.topic("t", retention_ms="1000")
    kept = await node.topic("compacted", retention_ms="1000", cleanup_policy="compact")
    for name in ("t", "compacted"):
        for timestamp in (NOW_MS - 5000, NOW_MS - 10):
            answer = node.appended(name, batch([b"v"], keys=[b"k"], timestamps=[timestamp]))
            assert answer.error_code == 0
    node.log(topic).upload()
    node.log(kept).upload()
    await Retention(node.partitions, node.config, lambda: node.now_ms).check()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    assert partition.log_start_offset == 1
    untouched = node.partitions.get("compacted", 0)
    assert untouched is not None
    assert untouched.log_start_offset == 0
