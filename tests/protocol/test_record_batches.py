"""Record batches: what is refused and with which code, what stamping touches, and the records of every codec."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import (
    HEADER_SIZE,
    BatchHeader,
    Codec,
    EndTxnMarker,
    Record,
    build_batch,
    build_end_txn_marker,
    decode_records,
    iter_batches,
    parse_end_txn_marker,
    stamp,
    stamp_log_append_time,
    validate_batches,
    validate_records,
)
from tests.protocol.strategies import BOUNDED

NOW_MS = 1_700_000_000_000
JAVA_RECORDS = [
    Record(0, 1000, b"k", b"value-value-value-value", []),
    Record(1, 1001, None, None, [("h", b"\x01"), ("n", None)]),
]
JAVA_BATCHES = {
    Codec.NONE: bytes.fromhex(
        "00000000000000000000005e0000000902fd4920c000000000000100000000000003e800000000000003e90000000000"
        "000005000100000000000000023c000000026b2e76616c75652d76616c75652d76616c75652d76616c7565001a000202"
        "01010402680201026e01"
    ),
    Codec.GZIP: bytes.fromhex(
        "0000000000000000000000620000000902b2cb6dd800010000000100000000000003e800000000000003e90000000000"
        "000005000100000000000000021f8b08000000000000ffb361606060cad62b4bcc294dd5c52019a41898981819599832"
        "981899f218010562b8eb2d000000"
    ),
    Codec.SNAPPY: bytes.fromhex(
        "0000000000000000000000670000000902a2b1153f00020000000100000000000003e800000000000003e90000000000"
        "0000050001000000000000000282534e41505059000000000100000001000000222d303c000000026b2e76616c75652d"
        "42060038001a00020201010402680201026e01"
    ),
    Codec.LZ4: bytes.fromhex(
        "0000000000000000000000610000000902eec78aa600030000000100000000000003e800000000000003e90000000000"
        "0000050001000000000000000204224d1860408221000000dd3c000000026b2e76616c75652d0600f000001a00020201"
        "010402680201026e0100000000"
    ),
    Codec.ZSTD: bytes.fromhex(
        "00000000000000000000005f0000000902edbd816f00040000000100000000000003e800000000000003e90000000000"
        "0000050001000000000000000228b52ffd0058140100e03c000000026b2e76616c75652d001a00020201010402680201"
        "026e01010099cb17010000"
    ),
}
"""Written by Apache Kafka 4.3.1: `JAVA_RECORDS` from producer 5, epoch 1, sequence 0, leader epoch 9."""

JAVA_MARKER = bytes.fromhex(
    "00000000000000000000004200000009025e895c7400300000000000000000000004d200000000000004d20000000000"
    "0000050001ffffffff000000012000000008000000010c00000000000700"
)
"""A commit of producer 5, epoch 1, by coordinator epoch 7, at 1234 ms, leader epoch 9."""


def records(count: int = 2) -> list[Record]:
    return [Record(i, NOW_MS + i, b"key-%d" % i, b"value" * 5, [("h", b"x")]) for i in range(count)]


def with_field(format_: str, position: int, value: int, crc: bool = True, **options: Any) -> memoryview:
    """A good batch with one field of its header overwritten, and the CRC made good again."""
    batch = build_batch(records(), **options)
    struct.pack_into(">" + format_, batch, position, value)
    if crc:
        struct.pack_into(">I", batch, 17, crc32c(batch[21:]))
    return memoryview(batch)


def refusal(batch: memoryview | None, **options: Any) -> ErrorCode:
    with pytest.raises(InvalidBatch) as raised:
        validate_batches(batch, **options)
    assert raised.value.message
    return raised.value.error_code


# Validation. The codes are those that Apache Kafka 4.3.1 answered to the same bytes, but where it is said otherwise.


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("count", [1, 2, 300])
def test_good_batches_are_accepted(codec: Codec, count: int) -> None:
    batch = memoryview(build_batch(records(count), codec=codec))
    header = validate_batches(batch)
    assert (header.record_count, header.size, header.codec) == (count, len(batch), codec)
    assert (header.base_offset, header.last_offset, header.next_offset) == (0, count - 1, count)


@pytest.mark.parametrize("codec", list(Codec))
def test_batches_of_a_java_producer_are_accepted(codec: Codec) -> None:
    header = validate_batches(memoryview(JAVA_BATCHES[codec]))
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (5, 1, 0)
    assert (header.base_timestamp, header.max_timestamp, header.partition_leader_epoch) == (1000, 1001, 9)


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        (None, ErrorCode.INVALID_RECORD),
        (memoryview(b""), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records()))[:20], ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records()))[:-1], ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records()) * 2), ErrorCode.INVALID_RECORD),
        # Kafka cuts this off.
        (memoryview(build_batch(records()) + b"xyz"), ErrorCode.INVALID_RECORD),
        (with_field("b", 16, 0), ErrorCode.INVALID_RECORD),
        (with_field("b", 16, 1), ErrorCode.INVALID_RECORD),
        (memoryview(bytes(16) + b"\x01" + bytes(20)), ErrorCode.INVALID_RECORD),
        (with_field("b", 16, 3), ErrorCode.CORRUPT_MESSAGE),
        (with_field("b", 16, -1), ErrorCode.CORRUPT_MESSAGE),
        (with_field("I", 17, 5, crc=False), ErrorCode.CORRUPT_MESSAGE),
        (with_field("i", 8, 20), ErrorCode.CORRUPT_MESSAGE),
        (with_field("i", 8, -5), ErrorCode.CORRUPT_MESSAGE),
        (with_field("i", 8, 0x7FFFFFFF), ErrorCode.INVALID_RECORD),
        (with_field("q", 0, 5), ErrorCode.INVALID_RECORD),
        (with_field("i", 57, 0), ErrorCode.INVALID_RECORD),
        (with_field("i", 57, -2), ErrorCode.INVALID_RECORD),
        (with_field("i", 57, 3), ErrorCode.INVALID_RECORD),
        (with_field("i", 23, 5), ErrorCode.INVALID_RECORD),
        (with_field("i", 23, -1), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records(), control=True)), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records(), producer_id=5, producer_epoch=0)), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records(), producer_id=-2)), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records(), transactional=True)), ErrorCode.INVALID_RECORD),
        # Kafka answers UNKNOWN_SERVER_ERROR.
        (with_field("h", 21, 5), ErrorCode.INVALID_RECORD),
        (with_field("h", 21, 7), ErrorCode.INVALID_RECORD),
        (memoryview(build_batch(records(), log_append_time=True)), ErrorCode.INVALID_TIMESTAMP),
        (memoryview(build_batch([Record(0, 1, None, None), Record(2, 1, None, None)])), ErrorCode.INVALID_RECORD),
    ],
)
def test_bad_batches_are_refused_with_kafkas_code(batch: memoryview | None, code: ErrorCode) -> None:
    assert refusal(batch) == code


def test_zstd_is_refused_where_the_version_does_not_know_it() -> None:
    batch = memoryview(build_batch(records(), codec=Codec.ZSTD))
    assert refusal(batch, zstd=False) == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert validate_batches(memoryview(build_batch(records(), codec=Codec.LZ4)), zstd=False)


def test_a_count_that_cannot_fit_is_refused() -> None:
    batch = bytearray(build_batch(records()))
    struct.pack_into(">i", batch, 23, 0x7FFFFFFE)
    struct.pack_into(">i", batch, 57, 0x7FFFFFFF)
    struct.pack_into(">I", batch, 17, crc32c(batch[21:]))
    assert refusal(memoryview(batch)) == ErrorCode.INVALID_RECORD


def test_every_truncation_and_every_flipped_byte_is_refused() -> None:
    good = build_batch(records())
    for size in range(len(good)):
        refusal(memoryview(good)[:size])
    for position in range(len(good)):
        if 12 <= position < 16:
            # The partition leader epoch is not the producer's to set, and not under the CRC.
            continue
        flipped = bytearray(good)
        flipped[position] ^= 0x41
        refusal(memoryview(flipped))


def test_deep_validation_finds_what_the_header_cannot_tell() -> None:
    assert validate_records(build_batch(records())) == decode_records(build_batch(records()))
    shifted = build_batch([Record(0, 1, None, None), Record(2, 1, None, None)])
    struct.pack_into(">i", shifted, 23, 1)
    with pytest.raises(InvalidBatch) as raised:
        validate_records(shifted)
    assert raised.value.error_code == ErrorCode.INVALID_RECORD
    garbage = bytearray(build_batch(records()))
    garbage[HEADER_SIZE:] = b"\xff" * (len(garbage) - HEADER_SIZE)
    with pytest.raises(InvalidBatch):
        validate_records(garbage)


# Stamping.


def test_stamping_keeps_the_crc_and_everything_else() -> None:
    batch = build_batch(records(3))
    before = bytes(batch)
    stamp(memoryview(batch), 1 << 40, 17)
    header = BatchHeader.read(batch)
    assert (header.base_offset, header.last_offset, header.partition_leader_epoch) == (1 << 40, (1 << 40) + 2, 17)
    assert batch[8:12] + batch[16:] == before[8:12] + before[16:]
    assert header.crc == crc32c(batch[21:])
    assert [record.offset - (1 << 40) for record in decode_records(batch)] == [0, 1, 2]


def test_log_append_time_is_the_time_of_every_record_and_under_the_crc() -> None:
    batch = build_batch(records(3), codec=Codec.LZ4)
    stamp_log_append_time(batch, 10, 2, NOW_MS + 99)
    header = BatchHeader.read(batch)
    assert header.is_log_append_time
    assert (header.base_offset, header.max_timestamp, header.base_timestamp) == (10, NOW_MS + 99, NOW_MS)
    assert header.codec == Codec.LZ4
    assert header.crc == crc32c(batch[21:])
    assert {record.timestamp for record in decode_records(batch)} == {NOW_MS + 99}


# Walking.


def test_batches_are_walked_and_a_cut_one_at_the_end_is_left_out() -> None:
    batches = [bytes(build_batch(records(count), base_offset=0)) for count in (1, 2, 3)]
    buffer = b"".join(batches)
    assert [bytes(batch) for _, batch in iter_batches(buffer)] == batches
    for size in range(len(buffer)):
        whole = [batch for _, batch in iter_batches(buffer[:size])]
        assert b"".join(whole) == b"".join(batches[: len(whole)])
    assert list(iter_batches(b"")) == []


@pytest.mark.parametrize(("position", "value"), [(8, b"\0\0\0\x05"), (8, b"\xff\xff\xff\xff"), (16, b"\x01")])
def test_walking_over_garbage_is_an_error_and_never_endless(position: int, value: bytes) -> None:
    batch = build_batch(records())
    batch[position : position + len(value)] = value
    with pytest.raises(InvalidBatch):
        list(iter_batches(batch))


# Records.


@pytest.mark.parametrize("codec", list(Codec))
def test_records_of_a_java_producer_are_read(codec: Codec) -> None:
    assert decode_records(JAVA_BATCHES[codec]) == JAVA_RECORDS


def test_an_uncompressed_batch_is_built_as_java_builds_it() -> None:
    built = build_batch(JAVA_RECORDS, leader_epoch=9, producer_id=5, producer_epoch=1, base_sequence=0)
    assert bytes(built) == JAVA_BATCHES[Codec.NONE]


@pytest.mark.parametrize("codec", list(Codec))
def test_aiokafka_and_we_read_what_the_other_builds(codec: Codec) -> None:
    expected = records(20)
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for record in expected:
        builder.append(record.offset, record.timestamp, record.key, record.value, list(record.headers))
    theirs = bytes(builder.build())
    assert decode_records(theirs) == expected
    assert validate_batches(memoryview(theirs)).record_count == 20
    read = [
        Record(r.offset, r.timestamp, r.key, r.value, r.headers)
        for r in DefaultRecordBatch(bytes(build_batch(expected, codec=codec)))
    ]
    assert read == expected


@BOUNDED
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 41),
            st.none() | st.binary(max_size=300),
            st.none() | st.binary(max_size=300),
            st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(Codec),
    st.integers(0, 1 << 50),
)
def test_records_come_back_as_they_were(content: list[Any], codec: Codec, base_offset: int) -> None:
    expected = [Record(base_offset + i, *each) for i, each in enumerate(content)]
    assert decode_records(build_batch(expected, codec=codec)) == expected


def test_compaction_keeps_a_batchs_range_over_its_gaps() -> None:
    kept = [Record(12, 5, b"a", b"x", []), Record(17, 6, b"b", b"y", [])]
    batch = build_batch(kept, base_offset=10, last_offset=19, producer_id=3, producer_epoch=1, base_sequence=4)
    header = BatchHeader.read(batch)
    assert (header.base_offset, header.last_offset, header.record_count) == (10, 19, 2)
    assert decode_records(batch) == kept
    empty = BatchHeader.read(build_batch([], base_offset=10, last_offset=19))
    assert (empty.last_offset, empty.record_count) == (19, 0)
    assert decode_records(build_batch([], base_offset=10, last_offset=19)) == []
    with pytest.raises(ValueError, match="not within"):
        build_batch(kept, base_offset=10, last_offset=16)
    with pytest.raises(ValueError, match="range"):
        build_batch([])


@pytest.mark.parametrize("codec", [codec for codec in Codec if codec])
def test_decompression_is_bounded(codec: Codec) -> None:
    bomb = build_batch([Record(0, 1, None, bytes(4 << 20), [])], codec=codec)
    assert len(bomb) < 256 << 10
    assert len(decode_records(bomb)[0].value or b"") == 4 << 20
    with pytest.raises(InvalidBatch):
        decode_records(bomb, size_max=1 << 20)


@pytest.mark.parametrize("codec", list(Codec))
def test_malformed_records_are_an_invalid_batch_and_nothing_else(codec: Codec) -> None:
    rng = random.Random(codec)
    good = build_batch(records(10), codec=codec)
    for _ in range(150):
        batch = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            batch[rng.randrange(HEADER_SIZE - 4, len(batch))] = rng.randrange(256)
        try:
            decode_records(batch, size_max=1 << 20)
        except InvalidBatch:
            continue
    for size in range(0, len(good), 5):
        with pytest.raises(InvalidBatch):
            decode_records(memoryview(good)[:size])


def test_raw_snappy_without_the_xerial_framing_is_read() -> None:
    import cramjam

    plain = build_batch(records(10))
    raw = bytes(cramjam.snappy.compress_raw(bytes(plain[HEADER_SIZE:])))
    batch = bytearray(plain[:HEADER_SIZE]) + raw
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">h", batch, 21, Codec.SNAPPY)
    assert decode_records(batch) == records(10)


# Control batches.


def test_a_marker_is_what_kafka_writes() -> None:
    marker = build_end_txn_marker(5, 1, True, 7, 1234)
    stamp(marker, 0, 9)
    assert bytes(marker) == JAVA_MARKER
    assert parse_end_txn_marker(JAVA_MARKER) == EndTxnMarker(committed=True, coordinator_epoch=7)


def test_a_marker_is_transactional_control_and_has_no_sequence() -> None:
    batch = build_end_txn_marker(producer_id=8, producer_epoch=3, committed=False, coordinator_epoch=1, timestamp_ms=5)
    header = BatchHeader.read(batch)
    assert header.is_control
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (8, 3, -1)
    assert parse_end_txn_marker(batch) == EndTxnMarker(committed=False, coordinator_epoch=1)


def test_a_marker_of_another_layout_is_read_as_well() -> None:
    key, value = bytes.fromhex("00000001"), bytes.fromhex("000000000007")
    for headers, codec in (([("h", b"x")], Codec.NONE), ([], Codec.GZIP)):
        record = Record(0, 1234, key, value, headers)
        batch = build_batch([record], codec=codec, producer_id=5, producer_epoch=1, transactional=True, control=True)
        assert parse_end_txn_marker(batch) == EndTxnMarker(committed=True, coordinator_epoch=7)


def test_other_control_batches_are_not_markers() -> None:
    leader_change = build_batch([Record(0, 1, struct.pack(">hh", 0, 2), b"\0\0")], control=True)
    assert parse_end_txn_marker(leader_change) is None
    with pytest.raises(InvalidBatch):
        parse_end_txn_marker(build_batch(records()))
    with pytest.raises(InvalidBatch):
        parse_end_txn_marker(build_batch([Record(0, 1, b"\0", b"")], control=True))
