"""The other clients of a drill, in its own process: one fills the input topic, others read along while all goes on."""

from __future__ import annotations

import random
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.transaction_history import Isolation, Outcome, Place, Poll, Reading, Send, Transaction
from tests.integration.load import RECONNECT, WatchedClient

from .values import copy_id, input_id, input_value

CALL_TIMEOUT_S = 60.0


class Feeder(WatchedClient):
    """Fills a topic with transactions, of which a share is aborted. Each incarnation of its producer is another one."""

    def __init__(self, address: str, topic: str, partitions: int, rate_per_s: int, seed: int) -> None:
        super().__init__(f"feeder-{seed}")
        self.transactions: list[Transaction] = []
        self._address = address
        self._topic = topic
        self._partitions = partitions
        self._rate_per_s = rate_per_s
        self._chance = random.Random(seed)
        self._sent = 0

    def _work(self) -> None:
        incarnation = 0
        while not self.stopping.is_set():
            producer = self._producer()
            incarnation += 1
            try:
                self._insist(producer.init_transactions)
                while not self.stopping.is_set():
                    self._fill(producer, f"{self.name}.{incarnation}")
            except KafkaException:
                continue  # fenced, by a time-out as a rule: begin anew

    def _producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._address,
                "transactional.id": self.name,
                "transaction.timeout.ms": 10_000,
                "linger.ms": 2,
                **RECONNECT,
            }
        )

    def _insist(self, call: object) -> None:
        assert callable(call)
        while True:
            try:
                call(CALL_TIMEOUT_S)
                return
            except KafkaException as failure:
                if not failure.args[0].retriable():
                    raise

    def _fill(self, producer: Producer, name: str) -> None:
        transaction = Transaction(name, outcome=Outcome.ABORTED)
        producer.begin_transaction()
        self.transactions.append(transaction)
        count = self._chance.randrange(1, 20)
        for _ in range(count):
            self._sent += 1
            send = Send(f"in{self._sent}", Place(self._topic, self._chance.randrange(self._partitions)))
            transaction.sends.append(send)
            self._produce(producer, send)
        time.sleep(count / self._rate_per_s)
        try:
            if self._chance.random() < 0.2:
                if self._chance.random() < 0.7:
                    producer.flush(CALL_TIMEOUT_S)
                self._insist(producer.abort_transaction)
                return
            transaction.commit_began = time.time()
            transaction.outcome = Outcome.UNKNOWN
            self._insist(producer.commit_transaction)
            transaction.outcome = Outcome.COMMITTED
        except KafkaException as failure:
            if not failure.args[0].txn_requires_abort():
                raise
            self._insist(producer.abort_transaction)
            transaction.outcome = Outcome.ABORTED

    def _produce(self, producer: Producer, send: Send) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            offset = message.offset()
            if error is None and offset is not None and offset >= 0:
                send.offset = offset

        producer.produce(
            send.place.topic, input_value(send.id).encode(), b"key", send.place.partition, on_delivery=delivered
        )
        producer.poll(0)


class LiveReader(WatchedClient):
    """Reads topics from their start and goes on as they grow."""

    def __init__(self, address: str, source: str, target: str, partitions: int, isolation: Isolation) -> None:
        super().__init__(f"live {isolation.value}")
        identify = {source: input_id, target: copy_id}
        self._identify = identify
        places = [Place(topic, partition) for topic in identify for partition in range(partitions)]
        self.readings = {place: Reading(self.name, place, isolation, 0) for place in places}
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "unused",
                "enable.auto.commit": False,
                "isolation.level": isolation.value,
                "auto.offset.reset": "error",
                **RECONNECT,
            }
        )

    def _work(self) -> None:
        self._consumer.assign([TopicPartition(*place, 0) for place in self.readings])
        while not self.stopping.is_set():
            messages = self._consumer.consume(500, 0.1)
            ended = time.time()
            polled: dict[Place, list[tuple[int, str]]] = {}
            for message in messages:
                error, topic, value = message.error(), message.topic(), message.value()
                if error is not None:
                    assert error.code() != KafkaError._AUTO_OFFSET_RESET, f"{self.name}: {error}"
                    continue
                assert topic is not None
                assert value is not None
                record = (message.offset() or 0, self._identify[topic](value.decode()))
                polled.setdefault(Place(topic, message.partition() or 0), []).append(record)
            for place, records in polled.items():
                self.readings[place].polls.append(Poll(tuple(records), records[-1][0] + 1, ended))
        self._consumer.close()
