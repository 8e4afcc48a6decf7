"""Batches that lose records keep everything else."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from crc32c import crc32c

from protocol.errors import InvalidBatch
from protocol.records import BatchHeader, Codec, Record, build_batch, decode_records
from protocol.records.header import ATTRIBUTES_POSITION
from protocol.records.rewriting import delete_horizon_ms, raw_records, with_records, without_records

NOW_MS = 1_700_000_000_000


def a_batch(codec: Codec = Codec.NONE, count: int = 20) -> bytearray:
    rng = random.Random(count)
    records = [
        Record(
            100 + i,
            NOW_MS + rng.randrange(-1000, 1000),
            None if i % 5 == 4 else rng.randbytes(rng.choice((0, 3, 90))),
            None if i % 3 == 2 else rng.randbytes(rng.choice((0, 10, 300))),
            [("é", b"1"), ("é", None)] if i % 2 else [],
        )
        for i in range(count)
    ]
    return build_batch(
        records, codec=codec, leader_epoch=3, producer_id=7, producer_epoch=1, base_sequence=9, last_offset=130
    )


@pytest.mark.parametrize("codec", list(Codec))
def test_raw_records_are_the_records(codec: Codec) -> None:
    batch = a_batch(codec)
    decoded = decode_records(batch)
    raw = raw_records(BatchHeader.read(batch), batch)
    assert [(each.offset, each.timestamp, each.key, each.has_value) for each in raw] == [
        (each.offset, each.timestamp, each.key, each.value is not None) for each in decoded
    ]


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("horizon_ms", [None, NOW_MS + 86_400_000])
def test_what_stays_is_what_it_was(codec: Codec, horizon_ms: int | None) -> None:
    batch = a_batch(codec)
    header = BatchHeader.read(batch)
    kept = raw_records(header, batch)[3:12:2]
    rewritten = with_records(header, kept, horizon_ms)
    new = BatchHeader.read(rewritten)
    assert crc32c(rewritten[ATTRIBUTES_POSITION:]) == new.crc
    decoded = {each.offset: each for each in decode_records(batch)}
    assert decode_records(rewritten) == [decoded[each.offset] for each in kept]
    assert (new.base_offset, new.last_offset, new.codec, new.producer_id, new.base_sequence) == (
        (100, 130, codec, 7, 9)
    )
    assert new.max_timestamp == max(each.timestamp for each in kept)
    assert delete_horizon_ms(new) == horizon_ms
    again = with_records(new, raw_records(new, rewritten))
    assert again == rewritten, "a horizon stays"


def test_a_batch_without_records_keeps_its_place_and_its_producer() -> None:
    header = BatchHeader.read(a_batch(Codec.ZSTD))
    empty = without_records(header)
    new = BatchHeader.read(empty)
    assert (new.size, new.record_count, new.codec) == (len(empty), 0, 0)
    for name in (
        "base_offset",
        "last_offset",
        "partition_leader_epoch",
        "max_timestamp",
        "producer_id",
        "base_sequence",
    ):
        assert getattr(new, name) == getattr(header, name)
    assert raw_records(new, empty) == []


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_damaged_records_are_refused(codec: Codec) -> None:
    batch = a_batch(codec)
    header = BatchHeader.read(batch)
    for cut in range(61, len(batch), 7):
        with pytest.raises(InvalidBatch):
            raw_records(header, batch[:cut], 1 << 16)
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(batch)
        damaged[rng.randrange(61, len(batch))] ^= rng.randrange(1, 256)
        with suppress(InvalidBatch):
            raw_records(header, damaged, 1 << 16)
    for count in (-1, 19, 21):
        header.record_count = count
        with pytest.raises(InvalidBatch):
            raw_records(header, batch)
