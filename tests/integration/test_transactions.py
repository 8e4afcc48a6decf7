"""Transactions of Python clients against a broker process: what readers see, offsets, fencing, `kill -9` in between.

librdkafka 2.16 forgets a broker that it lost (`metadata.recovery.strategy=rebootstrap`, its default), but goes on with
the forgotten one as the group's coordinator: `send_offsets_to_transaction` then never returns. So that is off here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition as AioPartition
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.broker_process import BrokerProcess
from broker.coordinator.partitioning import partition_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PARTITIONS = 2
TIMEOUT_S = 40.0
ENV = {
    "TAILRACE_BROKER_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "TAILRACE_BROKER_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS": "200",
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "data", env=ENV) as process:
        create(process, "t")
        yield process
        assert "Traceback" not in process.log(), process.log()[-4000:]


def create(broker: BrokerProcess, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    for created in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        created.result(TIMEOUT_S)


def producer(broker: BrokerProcess, transactional_id: str = "tx", **config: Any) -> Producer:
    """Ready for its first transaction."""
    made = Producer(
        {
            "bootstrap.servers": broker.address,
            "transactional.id": transactional_id,
            "linger.ms": 0,
            "retry.backoff.max.ms": 200,
            "reconnect.backoff.max.ms": 200,
            "metadata.recovery.strategy": "none",
        }
        | config
    )
    made.init_transactions(TIMEOUT_S)
    return made


def send(made: Producer, *values: str, topic: str = "t") -> None:
    """Returns when the broker has them, so that an abort does not just drop them at the client."""
    for value in values:
        made.produce(topic, value.encode(), partition=hash(value) % PARTITIONS)
    assert made.flush(TIMEOUT_S) == 0


def read(broker: BrokerProcess, *, committed: bool, topic: str = "t") -> list[str]:
    """Everything up to the end, or to the last stable offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "reader",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(topic, index, 0) for index in range(PARTITIONS)])
    values: list[str] = []
    ended: set[int] = set()
    deadline = time.monotonic() + TIMEOUT_S
    while len(ended) < PARTITIONS:
        assert time.monotonic() < deadline, f"no end in sight after {values}"
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            ended.add(message.partition())
        else:
            values.append(message.value().decode())
    consumer.close()
    return sorted(values)


def read_until(broker: BrokerProcess, expected: list[str]) -> None:
    """Markers follow the answer of a commit: wait until what is committed is all there."""
    deadline = time.monotonic() + TIMEOUT_S
    while (seen := read(broker, committed=True)) != sorted(expected):
        assert set(seen) <= set(expected), f"{seen} holds what is not committed"
        assert time.monotonic() < deadline, f"{seen} instead of {expected}"


def group_consumer(broker: BrokerProcess, group: str) -> Consumer:
    """Not a member: it commits as a simple consumer."""
    return Consumer({"bootstrap.servers": broker.address, "group.id": group, "enable.auto.commit": False})


def committed_offset(broker: BrokerProcess, group: str) -> int:
    consumer = group_consumer(broker, group)
    [partition] = consumer.committed([TopicPartition("t", 0)], TIMEOUT_S)
    consumer.close()
    offset: int = partition.offset
    return offset


def test_readers_see_what_is_committed_or_everything(broker: BrokerProcess) -> None:
    tx = producer(broker)
    for number in range(6):
        tx.begin_transaction()
        send(tx, *(f"{number}-{index}" for index in range(4)))
        if number % 3 == 2:
            tx.abort_transaction(TIMEOUT_S)
        else:
            tx.commit_transaction(TIMEOUT_S)
    committed = [f"{number}-{index}" for number in (0, 1, 3, 4) for index in range(4)]
    read_until(broker, committed)
    assert read(broker, committed=False) == sorted(f"{number}-{index}" for number in range(6) for index in range(4))


def test_an_open_transaction_hides_itself_and_what_is_behind_it(broker: BrokerProcess) -> None:
    tx = producer(broker)
    tx.begin_transaction()
    tx.produce("t", b"open", partition=0)
    tx.flush(TIMEOUT_S)
    plain = Producer({"bootstrap.servers": broker.address})
    plain.produce("t", b"behind", partition=0)
    plain.produce("t", b"beside", partition=1)
    plain.flush(TIMEOUT_S)
    assert read(broker, committed=True) == ["beside"]
    assert read(broker, committed=False) == ["behind", "beside", "open"]
    tx.commit_transaction(TIMEOUT_S)
    read_until(broker, ["behind", "beside", "open"])


def test_offsets_are_committed_and_aborted_with_their_transaction(broker: BrokerProcess) -> None:
    tx = producer(broker)
    consumer = group_consumer(broker, "g")
    for offset, end in ((3, tx.commit_transaction), (9, tx.abort_transaction), (5, tx.commit_transaction)):
        tx.begin_transaction()
        send(tx, f"at {offset}")
        tx.send_offsets_to_transaction([TopicPartition("t", 0, offset)], consumer.consumer_group_metadata(), TIMEOUT_S)
        end(TIMEOUT_S)
    # a fetch of stable offsets waits for the marker
    assert committed_offset(broker, "g") == 5
    consumer.close()


def test_a_member_of_a_former_generation_cannot_commit_in_a_transaction(broker: BrokerProcess) -> None:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "enable.auto.commit": False})
    consumer.subscribe(["t"])
    deadline = time.monotonic() + TIMEOUT_S
    while not consumer.assignment():
        assert time.monotonic() < deadline
        consumer.poll(0.1)
    stale = consumer.consumer_group_metadata()
    tx = producer(broker)
    tx.begin_transaction()
    tx.send_offsets_to_transaction([TopicPartition("t", 0, 7)], stale, TIMEOUT_S)
    tx.commit_transaction(TIMEOUT_S)
    consumer.close()
    tx.begin_transaction()
    with pytest.raises(KafkaException) as refused:
        tx.send_offsets_to_transaction([TopicPartition("t", 0, 8)], stale, TIMEOUT_S)
    assert refused.value.args[0].txn_requires_abort()
    tx.abort_transaction(TIMEOUT_S)
    assert committed_offset(broker, "g") == 7


def test_a_second_producer_of_a_transactional_id_fences_the_first(broker: BrokerProcess) -> None:
    first = producer(broker)
    first.begin_transaction()
    send(first, "of the zombie")
    second = producer(broker)
    second.begin_transaction()
    send(second, "of its successor")
    second.commit_transaction(TIMEOUT_S)
    with pytest.raises(KafkaException) as fenced:
        first.commit_transaction(TIMEOUT_S)
    assert fenced.value.args[0].fatal()
    read_until(broker, ["of its successor"])


def test_a_transaction_that_nobody_ends_is_aborted_in_time(broker: BrokerProcess) -> None:
    tx = producer(broker, **{"transaction.timeout.ms": 1000})
    tx.begin_transaction()
    send(tx, "abandoned")
    plain = Producer({"bootstrap.servers": broker.address})
    for index in range(PARTITIONS):
        plain.produce("t", b"behind", partition=index)
    plain.flush(TIMEOUT_S)
    read_until(broker, ["behind", "behind"])


def test_a_transaction_goes_on_after_the_broker_was_killed(broker: BrokerProcess) -> None:
    tx = producer(broker)
    consumer = group_consumer(broker, "g")
    for number, end in ((0, tx.commit_transaction), (1, tx.abort_transaction), (2, tx.commit_transaction)):
        tx.begin_transaction()
        send(tx, f"{number} before")
        tx.send_offsets_to_transaction([TopicPartition("t", 0, number)], consumer.consumer_group_metadata(), TIMEOUT_S)
        broker.kill()
        broker.start()
        send(tx, f"{number} after")
        end(TIMEOUT_S)
        broker.kill()
        broker.start()
    read_until(broker, [f"{number} {when}" for number in (0, 2) for when in ("before", "after")])
    assert len(read(broker, committed=False)) == 6
    assert committed_offset(broker, "g") == 2
    consumer.close()


def test_a_transaction_whose_producer_and_broker_both_died_is_aborted_by_its_successor(broker: BrokerProcess) -> None:
    dead = producer(broker)
    dead.begin_transaction()
    send(dead, "of the dead")
    consumer = group_consumer(broker, "g")
    dead.send_offsets_to_transaction([TopicPartition("t", 0, 9)], consumer.consumer_group_metadata(), TIMEOUT_S)
    consumer.close()
    broker.kill()
    broker.start()
    successor = producer(broker)
    successor.begin_transaction()
    send(successor, "of the living")
    successor.commit_transaction(TIMEOUT_S)
    read_until(broker, ["of the living"])
    assert committed_offset(broker, "g") < 0


def test_a_transaction_spans_brokers_and_is_completed_when_a_killed_one_is_back(tmp_path: Path) -> None:
    """The coordinator's broker stays; the other one dies between the records and their markers."""
    shared = ["--objects", (tmp_path / "objects").as_uri(), "--metadata", f"sqlite:///{tmp_path / 'catalog.db'}"]
    with (
        BrokerProcess(tmp_path / "one", node_id=1, args=shared, env=ENV) as one,
        BrokerProcess(tmp_path / "two", node_id=2, args=shared, env=ENV) as two,
    ):
        admin = AdminClient({"bootstrap.servers": one.address})
        deadline = time.monotonic() + TIMEOUT_S
        while len(admin.list_topics(timeout=TIMEOUT_S).brokers) < 2:
            assert time.monotonic() < deadline, "the brokers do not know each other"
        create(one, "t")
        leaders = {each.leader for each in admin.list_topics("t", TIMEOUT_S).topics["t"].partitions.values()}
        assert leaders == {1, 2}
        producer(one, "first")
        coordinators = admin.list_topics("__transaction_state", TIMEOUT_S).topics["__transaction_state"].partitions
        transactional_id = next(
            name for name in map(str, range(100)) if coordinators[partition_for(name, len(coordinators))].leader == 1
        )
        tx = producer(one, transactional_id)
        expected = []
        for number in range(3):
            tx.begin_transaction()
            values = [f"{number}-{partition}" for partition in range(PARTITIONS)]
            for partition, value in enumerate(values):
                tx.produce("t", value.encode(), partition=partition)
            assert tx.flush(TIMEOUT_S) == 0
            two.kill()
            if number == 1:
                tx.abort_transaction(TIMEOUT_S)
            else:
                tx.commit_transaction(TIMEOUT_S)
                expected += values
            two.start()
        read_until(one, expected)
        assert len(read(one, committed=False)) == 3 * PARTITIONS
        assert "Traceback" not in one.log() + two.log()


async def test_aiokafka_transactions_with_offsets(broker: BrokerProcess) -> None:
    tx = AIOKafkaProducer(bootstrap_servers=broker.address, transactional_id="aio")
    await tx.start()
    async with tx.transaction():
        await tx.send_and_wait("t", b"kept", partition=0)
        await tx.send_offsets_to_transaction({AioPartition("t", 0): 4}, "aio-group")
    await tx.begin_transaction()
    await tx.send_and_wait("t", b"dropped", partition=0)
    await tx.send_offsets_to_transaction({AioPartition("t", 0): 8}, "aio-group")
    await tx.abort_transaction()
    await tx.stop()
    read_until(broker, ["kept"])
    assert committed_offset(broker, "aio-group") == 4
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.address, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([AioPartition("t", 0)])
        await consumer.seek_to_beginning()
        assert (await consumer.getone()).value == b"kept"
    finally:
        await consumer.stop()
