"""Record batches as a producer sends them, built with aiokafka."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder

NOW_MS = 1_700_000_000_000

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


def batch(
    values: Sequence[bytes | None] = (b"value",),
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    compression: int = NONE,
    transactional: bool = False,
) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, compression, transactional, producer_id, epoch, sequence, 1 << 30)
    for index, value in enumerate(values):
        key = keys[index] if keys is not None else None
        timestamp = timestamps[index] if timestamps is not None else NOW_MS
        builder.append(index, timestamp, key, value, [])
    return bytearray(builder.build())
