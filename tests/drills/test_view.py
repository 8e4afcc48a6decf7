"""What a client believes about leaders."""

from __future__ import annotations

import random

import pytest

from bench.transaction_history import Place
from drills.client.view import Address, Leader, View, parse_addresses
from drills.values import id_in, value_of
from protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from protocol.records import Record

PLACE = Place("t", 0)
ID = bytes(range(16))


def metadata(leader: int, epoch: int) -> MetadataResponse:
    partition = MetadataResponsePartition(partition_index=0, leader_id=leader, leader_epoch=epoch)
    return MetadataResponse(
        brokers=[MetadataResponseBroker(node_id=node_id, host="h", port=9000 + node_id) for node_id in (1, 2)],
        topics=[MetadataResponseTopic(name="t", topic_id=ID, partitions=[partition])],
    )


def test_what_is_older_than_what_is_known_is_ignored() -> None:
    view = View()
    assert view.learn(metadata(1, 5))
    assert not view.learn(metadata(2, 4))
    assert view.leader(PLACE) == Leader(1, 5)
    assert view.learn(metadata(2, 6))
    assert (view.led_by(2), view.topic_ids, view.topic_names) == ([PLACE], {"t": ID}, {ID: "t"})


def test_a_hint_counts_if_it_is_newer_and_names_a_broker_that_can_be_reached() -> None:
    view = View()
    view.learn(metadata(1, 5))
    assert not view.learn_leader(PLACE, Leader(2, 5), {})
    assert not view.learn_leader(PLACE, Leader(-1, 9), {})
    assert not view.learn_leader(PLACE, Leader(3, 6), {})
    assert view.learn_leader(PLACE, Leader(3, 6), {3: Address("h", 9003)})
    assert (view.leader(PLACE), view.nodes[3]) == (Leader(3, 6), Address("h", 9003))


def test_addresses_are_told_apart_from_nonsense() -> None:
    assert parse_addresses("a:1, [::1]:2") == [Address("a", 1), Address("::1", 2)]
    for text in ("a", "a:b", ":1", ""):
        with pytest.raises(ValueError, match="is not HOST:PORT"):
            parse_addresses(text)


def test_a_record_with_any_other_byte_has_an_id_that_nobody_sent() -> None:
    value = value_of("3-17", 1024)
    assert len(value) == 1024
    assert id_in(Record(0, 0, b"3-17", value), 1024) == "3-17"
    position = random.Random(1).randrange(5, 1024)
    damaged = value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
    for record in (Record(0, 0, b"3-17", damaged), Record(0, 0, b"3-18", value), Record(0, 0, b"3-17", value[:-1])):
        assert "damaged" in id_in(record, 1024)
