"""The copy job with confluent-kafka (librdkafka); its arguments and lines are in README.md beside this file."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

CALL_TIMEOUT_S = 60.0
COMMON = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    # Bootstrapping anew throws away known brokers, and librdkafka 2.16 then waits for one of those, without end, in
    # send_offsets_to_transaction (seen with Kafka and with tailrace).
    "metadata.recovery.strategy": "none",
    "log_level": 0,
}


def write(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"e": event, "t": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def stop_when_stdin_closes() -> threading.Event:
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed


def insist(call: Callable[..., Any], *arguments: Any) -> Any:
    """The transactional calls may be repeated as long as they say so."""
    while True:
        try:
            return call(*arguments, CALL_TIMEOUT_S)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            write("error", fatal=error.fatal(), text=str(error))
            if not error.retriable():
                raise


def write_poll(messages: Sequence[Message]) -> None:
    records = [[m.partition(), m.offset(), (m.value() or b"").decode()] for m in messages if m.error() is None]
    if records:
        write("poll", r=records, at=[[p, o + 1] for p, o in {p: o for p, o, _ in records}.items()])


class CopyJob:
    def __init__(self, options: dict[str, str]) -> None:
        self.input, self.output = options["input"], options["output"]
        self.partitions = int(options["partitions"])
        self.name = options["name"]
        self.chance = random.Random(options["seed"])
        self.abort_share = int(options["abort.percent"]) / 100
        self.cooperative = options.get("group.protocol") == "consumer"
        self.sent = 0
        self.acks: list[tuple[str, int]] = []
        self.producer = Producer(
            {
                "bootstrap.servers": options["bootstrap"],
                "transactional.id": options["transactional.id"],
                "transaction.timeout.ms": int(options["transaction.timeout.ms"]),
                "linger.ms": 2,
                **COMMON,
            }
        )
        group = {"group.protocol": "consumer"} if self.cooperative else {}
        if not self.cooperative:
            group["session.timeout.ms"] = options["session.timeout.ms"]
        self.consumer = Consumer(
            {
                "bootstrap.servers": options["bootstrap"],
                "group.id": options["group"],
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **group,
                **COMMON,
            }
        )

    def run(self, stop: threading.Event) -> None:
        insist(self.producer.init_transactions)
        write("ready")
        self.consumer.subscribe([self.input], on_assign=self.assigned)
        while not stop.is_set():
            messages = self.consumer.consume(self.chance.randrange(1, 40), 0.2)
            write_poll(messages)
            records = [message for message in messages if message.error() is None]
            if records:
                self.copy(records)
        self.consumer.close()

    def assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        found = self.committed(partitions)
        if self.cooperative:
            consumer.incremental_assign(found)
        else:
            consumer.assign(found)

    def committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Where to go on from: waits until no transaction can change that any more."""
        while True:
            try:
                found = self.consumer.committed(partitions, timeout=CALL_TIMEOUT_S)
                if all(each.error is None for each in found):
                    break
            except KafkaException as failure:
                write("error", fatal=False, text=f"committed: {failure}")
            time.sleep(0.05)
        for each in found:
            each.offset = max(each.offset, 0)
            write("assigned", p=each.partition, o=each.offset)
        return found

    def copy(self, records: Sequence[Message]) -> None:
        try:
            self.producer.begin_transaction()
            aborts = self.chance.random() < self.abort_share
            stage = self.chance.randrange(3)
            self.send(records)
            if aborts and stage == 0:
                self.abort()
                return
            if aborts or self.chance.random() < 0.5:
                self.producer.flush(CALL_TIMEOUT_S)
                write("acks", s=self.acks)
            time.sleep(self.chance.random() * 0.03)
            if not aborts or stage == 2:
                positions = [each for each in self.consumer.position(self.consumer.assignment()) if each.offset >= 0]
                insist(self.producer.send_offsets_to_transaction, positions, self.consumer.consumer_group_metadata())
            if aborts:
                self.abort()
                return
            write("commit")
            insist(self.producer.commit_transaction)
            write("acks", s=self.acks)
            write("end", outcome="committed")
        except KafkaException as failure:
            if not failure.args[0].txn_requires_abort():
                raise
            self.abort()

    def send(self, records: Sequence[Message]) -> None:
        self.acks = acks = []
        sends = []
        for record in records:
            self.sent += 1
            value = record.value() or b""
            sends.append((f"{self.name}-{self.sent}", self.chance.randrange(self.partitions), value, record.key()))
        write("sends", s=[(send_id, partition, value.decode()) for send_id, partition, value, _ in sends])
        for send_id, partition, value, key in sends:

            def delivered(error: KafkaError | None, message: Message, send_id: str = send_id) -> None:
                offset = message.offset()
                if error is None and offset is not None and offset >= 0:
                    acks.append((send_id, offset))

            self.producer.produce(self.output, f"{send_id}|".encode() + value, key, partition, on_delivery=delivered)
        self.producer.poll(0)

    def abort(self) -> None:
        insist(self.producer.abort_transaction)
        write("acks", s=self.acks)
        write("end", outcome="aborted")
        for each in self.committed(self.consumer.assignment()):
            self.consumer.seek(each)


def read(options: dict[str, str]) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": options["bootstrap"],
            "group.id": "complete-read",
            "isolation.level": options["isolation"],
            "enable.partition.eof": True,
            **COMMON,
        }
    )
    places = [TopicPartition(options["topic"], partition, 0) for partition in range(int(options["partitions"]))]
    for place in places:
        write("assigned", p=place.partition, o=0)
    consumer.assign(places)
    unread = {place.partition for place in places}
    while unread:
        messages = consumer.consume(500, 0.2)
        write_poll(messages)
        for message in messages:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition() or 0)
                write("poll", r=[], at=[[message.partition(), message.offset()]])
    consumer.close()


def main() -> None:
    command, *arguments = sys.argv[1:]
    options = dict(argument.split("=", 1) for argument in arguments)
    if command == "read":
        read(options)
        return
    try:
        CopyJob(options).run(stop_when_stdin_closes())
    except KafkaException as failure:
        write("error", fatal=True, text=str(failure))
        raise SystemExit(3) from failure


if __name__ == "__main__":
    main()
