"""The records of consumer groups: there and back, and byte for byte what Apache Kafka 4.3.1 wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.coordinator.group.consumer.records import (
    ConsumerRecord,
    Current,
    GroupEpoch,
    Member,
    Regex,
    Target,
    TargetEpoch,
)
from broker.coordinator.group.consumer.values import (
    ClassicMetadata,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    ResolvedRegex,
)
from broker.coordinator.group.records import decode_record
from protocol.errors import DecodeError

TOPIC = bytes.fromhex("11fccbee05d84b16b90ca642ae443109")

text = st.text(max_size=12)
epochs = st.integers(-2, 2**31 - 1)
topics = st.binary(min_size=16, max_size=16)
partitions = st.integers(0, 2**31 - 1)
owned = st.dictionaries(topics, st.dictionaries(partitions, epochs, min_size=1, max_size=4), max_size=3)
members = st.builds(
    MemberMetadata,
    st.none() | text,
    st.none() | text,
    text,
    text,
    st.lists(text, max_size=3).map(tuple),
    text,
    epochs,
    st.none() | text,
    st.none() | st.builds(ClassicMetadata, epochs, st.lists(st.tuples(text, st.binary()), max_size=2).map(tuple)),
)
records = st.one_of(
    st.builds(GroupEpoch, text, st.none() | st.tuples(epochs, st.integers(-(2**63), 2**63 - 1))),
    st.builds(Member, text, text, st.none() | members),
    st.builds(TargetEpoch, text, st.none() | st.tuples(epochs, st.integers(0, 2**63 - 1))),
    st.builds(Target, text, text, st.none() | st.dictionaries(topics, st.frozensets(partitions), max_size=3)),
    st.builds(
        Current,
        text,
        text,
        st.none() | st.builds(CurrentAssignment, epochs, epochs, st.sampled_from(MemberState), owned, owned),
    ),
    st.builds(
        Regex,
        text,
        text,
        st.none()
        | st.builds(ResolvedRegex, st.frozensets(text, max_size=3), st.integers(0, 2**63 - 1), st.integers(0, 2**40)),
    ),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: ConsumerRecord) -> None:
    assert decode_record(*record.encode()) == record


@given(records, st.data())
def test_a_cut_off_record_is_a_decode_error(record: ConsumerRecord, data: st.DataObject) -> None:
    key, value = record.encode()
    if value is not None:
        with pytest.raises(DecodeError):
            decode_record(key, value[: data.draw(st.integers(0, len(value) - 1))])
    with pytest.raises(DecodeError):
        decode_record(key[: data.draw(st.integers(0, len(key) - 1))], value)


@pytest.mark.parametrize(
    ("record", "key", "value"),
    [
        (
            Member("h1", "m1", MemberMetadata(None, None, "cl", "/127.0.0.1", ("a",), "", 10_000, None)),
            "00050002683100026d31",
            "0000000003636c0b2f3132372e302e302e3102026101000027100001000100",
        ),
        (GroupEpoch("h1", (2, -1405137656158722562)), "000300026831", "000000000002010008ec7ff2bf182265fe"),
        (
            Target("h1", "m1", {TOPIC: frozenset({0, 1, 2, 3})}),
            "00070002683100026d31",
            "00000211fccbee05d84b16b90ca642ae44310905000000000000000100000002000000030000",
        ),
        (TargetEpoch("h1", (2, 1795273439018)), "000600026831", "000000000002010008000001a1fea2b72a"),
        (
            Current(
                "h1",
                "m1",
                CurrentAssignment(2, 2, MemberState.UNREVOKED_PARTITIONS, {TOPIC: {0: 2, 1: 2}}, {TOPIC: {2: 2, 3: 2}}),
            ),
            "00080002683100026d31",
            "00000000000200000002010211fccbee05d84b16b90ca642ae4431090300000000000000010100090300000002000000020211fccbee05"
            "d84b16b90ca642ae44310903000000020000000301000903000000020000000200",
        ),
        (
            Regex("f4", "a", ResolvedRegex(frozenset({"a"}), 674, 1795273607694)),
            "001000026634000161",
            "000002026100000000000002a2000001a1fea54a0e00",
        ),
    ],
)
def test_records_are_those_of_kafka(record: ConsumerRecord, key: str, value: str) -> None:
    assert record.encode() == (bytes.fromhex(key), bytes.fromhex(value))


def test_an_unknown_member_state_is_a_decode_error() -> None:
    key, value = Current("g", "m", CurrentAssignment()).encode()
    assert value is not None
    with pytest.raises(DecodeError):
        decode_record(key, value[:10] + b"\x09" + value[11:])
