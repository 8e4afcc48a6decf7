"""Batches that lie about what is in them: small ones that decompress to a lot, counts of millions."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from crc32c import crc32c

from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from broker.partition import time_lookup
from broker.partition.append_rules import RECORDS_CHECKED_MAX, AppendRules
from broker.partition.errors import BatchPostponed, BatchRefused
from broker.partition.inspection import InspectionBudget
from broker.partition.time_lookup import TimestampOffset, offset_for_timestamp
from protocol.errors import ErrorCode
from protocol.records import Codec
from protocol.records.compression import compress
from protocol.records.header import ATTRIBUTES_POSITION, CRC_POSITION, HEADER_SIZE
from tests.broker.hostile.mutation import batch

NOW_MS = 1_000_000


def with_body(body: bytes, codec: Codec, count: int) -> memoryview:
    """A batch whose header and checksum are right for `body`, which need not hold `count` records."""
    made = bytearray(batch(codec, 1)[:HEADER_SIZE]) + body
    made[8:12] = (len(made) - 12).to_bytes(4, "big")
    made[23:27] = (count - 1).to_bytes(4, "big")
    made[57:61] = count.to_bytes(4, "big")
    made[CRC_POSITION:ATTRIBUTES_POSITION] = crc32c(memoryview(made)[ATTRIBUTES_POSITION:]).to_bytes(4, "big")
    return memoryview(made)


def rules(inspections: InspectionBudget | None = None, **configs: str) -> AppendRules:
    config = TopicConfig.resolve({name.replace("_", "."): value for name, value in configs.items()}, BrokerConfig())
    return AppendRules(config, inspections or InspectionBudget())


def bomb(codec: Codec) -> bytes:
    zeros = bytes(48 << 20)
    return zlib.compress(zeros, 1, wbits=31) if codec == Codec.GZIP else compress(codec, zeros)


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_a_batch_that_decompresses_to_too_much_is_refused_where_its_records_are_checked(codec: Codec) -> None:
    with pytest.raises(BatchRefused) as refused:
        rules(cleanup_policy="compact", max_message_bytes="10000000").check(with_body(bomb(codec), codec, 10), NOW_MS)
    assert refused.value.code == ErrorCode.INVALID_RECORD


class SteppedClock:
    """Each look takes `step` seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_batches_that_take_longer_than_their_bytes_earn_are_put_off_until_time_has_passed() -> None:
    clock = SteppedClock()
    checking = rules(InspectionBudget(clock), cleanup_policy="compact")
    clock.step = 0.03
    for _ in range(5):
        checking.check(memoryview(batch()), NOW_MS)
    with pytest.raises(BatchPostponed) as postponed:
        checking.check(memoryview(batch()), NOW_MS)
    assert postponed.value.code == ErrorCode.KAFKA_STORAGE_ERROR
    clock.now += 5
    checking.check(memoryview(batch()), NOW_MS)


def test_bytes_that_were_sent_earn_the_time_to_look_at_them() -> None:
    clock = SteppedClock()
    checking = rules(InspectionBudget(clock), cleanup_policy="compact", max_message_bytes="10000000")
    clock.step = 0.03
    large = with_body(batch(count=1)[HEADER_SIZE:] + bytes(200_000), Codec.NONE, 1)
    for _ in range(100):
        with pytest.raises(BatchRefused) as refused:
            checking.check(large, NOW_MS)
        assert refused.value.code == ErrorCode.INVALID_RECORD


def test_a_batch_of_too_many_records_to_check_is_too_large_so_that_its_producer_splits_it() -> None:
    count = RECORDS_CHECKED_MAX + 1
    with pytest.raises(BatchRefused) as refused:
        rules(cleanup_policy="compact").check(
            with_body(compress(Codec.ZSTD, bytes(7 * count)), Codec.ZSTD, count), NOW_MS
        )
    assert refused.value.code == ErrorCode.MESSAGE_TOO_LARGE


class OneBatch:
    """A stream that holds one batch."""

    start_offset = 0

    def __init__(self, content: memoryview, count: int) -> None:
        self._content = content
        self._count = count

    async def seek_timestamp(self, timestamp: int) -> int:
        return 0

    async def fetch(self, offset: int, size_max: int, end_offset: int) -> Any:
        return SimpleNamespace(next_offset=self._count, buffers=[self._content])


async def test_a_look_up_by_time_does_not_count_through_millions_of_records() -> None:
    count = time_lookup.RECORDS_MAX + 1
    stream: Any = OneBatch(with_body(b"", Codec.LZ4, count), count)
    assert await offset_for_timestamp(stream, 900, count) == TimestampOffset(1000, 0, -1)
