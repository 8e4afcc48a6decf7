"""The story that Kafka's tools are asked about: groups of both protocols, and transactions of every fate."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack

from confluent_kafka import Consumer, Producer, TopicPartition

from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from protocol.records import Record, build_batch

from .admin import create_topic, produce
from .clients import record

CONFIGS = {"group.initial.rebalance.delay.ms": "0", "transaction.partition.verification.enable": "false"}
"""Without verification a transaction can be left hanging by one raw request, as bugs of old brokers did."""
BASE_TIME = 1_700_000_000_000
HANGING_PRODUCER = 777_777
ORDERS, PAYMENTS, PARCELS = "orders", "payments", "parcels"
ALONE = {"enable.auto.commit": False}


class LiveMember(threading.Thread):
    """A group member that commits `offsets` once it has been given its partitions, and stays."""

    def __init__(self, address: str, group: str, offsets: dict[tuple[str, int], int], config: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.committed = threading.Event()
        self._stopping = threading.Event()
        self._offsets = [TopicPartition(*place, at) for place, at in offsets.items()]
        base = {"bootstrap.servers": address, "group.id": group, "client.id": f"{group}-client"}
        self._consumer = Consumer({**base, **ALONE, "auto.offset.reset": "earliest", **config})
        self.start()
        assert self.committed.wait(30), f"{group} was given nothing"

    def run(self) -> None:
        self._consumer.subscribe(sorted({each.topic for each in self._offsets}))
        while not self._stopping.is_set():
            self._consumer.poll(0.05)
            if self._consumer.assignment() and not self.committed.is_set():
                self._consumer.commit(offsets=self._offsets, asynchronous=False)
                self.committed.set()
        self._consumer.close()

    def leave(self) -> None:
        self._stopping.set()
        self.join(30)


def play(address: str) -> ExitStack:
    """Everything up to the first tool; who must stay alive for the tools is closed with the stack."""
    create_topic(address, ORDERS, 3)
    create_topic(address, PAYMENTS, 2)
    create_topic(address, PARCELS, 1)
    produce(address, ORDERS, [record(b"k", b"v%d" % i, BASE_TIME + i, partition=i % 3) for i in range(30)])
    produce(address, PAYMENTS, [record(b"k", b"v%d" % i, BASE_TIME + i, partition=i % 2) for i in range(10)])
    alive = ExitStack()
    for group, protocol, stays in (
        ("classic-live", "classic", True),
        ("classic-gone", "classic", False),
        ("consumer-live", "consumer", True),
        ("consumer-gone", "consumer", False),
    ):
        offsets = {(ORDERS, 0): 4, (ORDERS, 1): 10, (ORDERS, 2): 7}
        member = LiveMember(address, group, offsets, {"group.protocol": protocol})
        if stays:
            alive.callback(member.leave)
        else:
            member.leave()
    _commit_without_group(address, "by-hand", {(PAYMENTS, 0): 2, (PAYMENTS, 1): 5})
    _transaction(address, "txn-committed", commits=True)
    _transaction(address, "txn-aborted", commits=False)
    _transaction(address, "txn-offsets", commits=True, offsets_of="in-transaction")
    open_transaction = _transaction(address, "txn-open", commits=None)
    alive.callback(open_transaction.abort_transaction, 10)
    Producer({"bootstrap.servers": address, "transactional.id": "txn-idle"}).init_transactions(10)
    _hang(address, PAYMENTS, 1)
    return alive


def _commit_without_group(address: str, group: str, offsets: dict[tuple[str, int], int]) -> None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": group, **ALONE})
    at = [TopicPartition(*place, offset, metadata="a note") for place, offset in offsets.items()]
    consumer.assign(at)
    consumer.commit(offsets=at, asynchronous=False)
    consumer.close()


def _transaction(address: str, name: str, *, commits: bool | None, offsets_of: str | None = None) -> Producer:
    """With a record to orders-0 and one to payments-0, ended as said, or left open (None)."""
    producer = Producer({"bootstrap.servers": address, "transactional.id": name, "transaction.timeout.ms": 600_000})
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic in (ORDERS, PAYMENTS):
        producer.produce(topic, name, partition=0, timestamp=BASE_TIME)
        assert producer.flush(30) == 0  # one after the other, so that the coordinator is always told in the same steps
    if offsets_of is not None:
        reader = Consumer({"bootstrap.servers": address, "group.id": offsets_of, **ALONE})
        at = [TopicPartition(ORDERS, 0, 3)]
        reader.assign(at)
        producer.send_offsets_to_transaction(at, reader.consumer_group_metadata(), 30)
        reader.close()
    if commits is not None:
        (producer.commit_transaction if commits else producer.abort_transaction)(30)
    return producer


def _hang(address: str, topic: str, partition: int) -> None:
    """One batch of a transaction that no coordinator knows."""
    batch = build_batch(
        [Record(offset=0, timestamp=BASE_TIME, key=None, value=b"hangs", headers=[])],
        producer_id=HANGING_PRODUCER,
        producer_epoch=3,
        base_sequence=0,
        transactional=True,
    )
    data = [PartitionProduceData(index=partition, records=memoryview(batch))]
    topics = [TopicProduceData(name=topic, partition_data=data)]
    request = ProduceRequest(transactional_id="hanging", acks=-1, timeout_ms=10_000, topic_data=topics)
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as connection, connection.makefile("rb") as answers:
        connection.sendall(encode_request(ApiKey.PRODUCE, 9, 1, "raw", request))
        size = struct.unpack(">i", answers.read(4))[0]
        response = decode_response(ApiKey.PRODUCE, 9, answers.read(size))[1]
    assert isinstance(response, ProduceResponse)
    assert response.responses[0].partition_responses[0].error_code == 0
