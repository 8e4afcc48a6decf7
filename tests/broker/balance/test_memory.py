"""What is remembered from one look to the next: who came when, what moved when."""

from __future__ import annotations

from uuid import UUID

from broker.balance.history import MoveHistory
from broker.balance.newcomers import MEMORY_S, PATIENCE_S, TRUSTED_STARTS, Newcomers
from s3stream.catalog.api import PartitionInfo, TopicInfo

TOPIC = UUID(int=1)


def topic(*leaders: int) -> TopicInfo:
    partitions = tuple(PartitionInfo(index, leader, 0, 0, 0) for index, leader in enumerate(leaders))
    return TopicInfo(TOPIC, "t", False, 1, partitions, {})


def test_a_broker_is_trusted_at_once_until_it_has_come_too_often() -> None:
    newcomers = Newcomers()
    for start in range(TRUSTED_STARTS):
        newcomers.see({1: start}, start * 10.0)
        assert newcomers.is_trusted(1, start * 10.0)
    newcomers.see({1: 100}, 100.0)
    assert not newcomers.is_trusted(1, 100.0 + PATIENCE_S - 1)
    assert newcomers.is_trusted(1, 100.0 + PATIENCE_S)
    newcomers.see({1: 101}, 140.0)
    assert not newcomers.is_trusted(1, 140.0 + 2 * PATIENCE_S - 1)
    assert newcomers.is_trusted(1, 140.0 + 2 * PATIENCE_S)
    assert newcomers.is_trusted(2, 0.0)


def test_starts_of_long_ago_count_no_more() -> None:
    newcomers = Newcomers()
    for start in range(TRUSTED_STARTS + 5):
        newcomers.see({1: start}, float(start))
    newcomers.see({1: 99}, 2 * MEMORY_S)
    assert newcomers.is_trusted(1, 2 * MEMORY_S)


def test_a_partition_has_moved_when_its_leader_has_changed() -> None:
    history = MoveHistory([topic(1, 1, 2)])
    history.follow({TOPIC: topic(1, 3, 2, 2)}, 10.0)
    assert history.moved_since(5.0) == {(TOPIC, 1)}
    history.follow({TOPIC: topic(2, 3, 2, 2)}, 20.0)
    assert history.moved_since(5.0) == {(TOPIC, 0), (TOPIC, 1)}
    assert history.moved_since(15.0) == {(TOPIC, 0)}


def test_a_topic_that_is_gone_is_forgotten_and_a_new_one_has_not_moved() -> None:
    history = MoveHistory([])
    history.follow({TOPIC: topic(1, 2)}, 10.0)
    history.follow({TOPIC: None}, 11.0)
    history.follow({TOPIC: topic(2, 1)}, 12.0)
    assert history.moved_since(0.0) == frozenset()
