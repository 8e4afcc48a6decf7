"""The record of the transaction coordinator, in Apache Kafka's own format, which its tools can read.

Key `TransactionLogKey` (the transactional id), value `TransactionLogValue` version 1: the one that Kafka writes at
`transaction.version` 1 and up. Version 0 is read too. A null value is a tombstone: the transactional id has expired.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.coordinator.log import KeyValue
from broker.coordinator.transaction.states import TransactionState
from protocol.codec import decode_record_message, encode_record_message, record_type
from protocol.errors import DecodeError
from protocol.messages.records.transaction_log import PartitionsSchema, TransactionLogKey, TransactionLogValue

NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_TIMESTAMP = -1

TopicPartition = tuple[str, int]


class TransactionValue(NamedTuple):
    """All there is to know of a transactional id; timestamps are wall-clock ms.

    `last_producer_epoch`, the epoch before the last bump that its own producer asked for, is not in Kafka's format: it
    is forgotten with the shard.
    """

    producer_id: int
    producer_epoch: int
    timeout_ms: int
    state: TransactionState
    partitions: frozenset[TopicPartition]
    last_update_ms: int
    start_ms: int = NO_TIMESTAMP
    previous_producer_id: int = NO_PRODUCER_ID
    next_producer_id: int = NO_PRODUCER_ID
    client_version: int = 0
    """`transaction.version` as the producer of this transaction has it: 2 if it bumps the epoch at every end."""
    last_producer_epoch: int = NO_PRODUCER_EPOCH


class TransactionRecord(NamedTuple):
    """`value` None: the transactional id is gone."""

    transactional_id: str
    value: TransactionValue | None

    @property
    def subject(self) -> str:
        return self.transactional_id

    def encode(self) -> KeyValue:
        key = encode_record_message(TransactionLogKey(transactional_id=self.transactional_id))
        return key, None if self.value is None else _encode_value(self.value)


def decode_record(key: bytes, value: bytes | None) -> TransactionRecord | None:
    """None for a kind of record that is not the transaction coordinator's. Raises DecodeError."""
    if record_type(key) != TransactionLogKey.API_KEY:
        return None
    transactional_id = decode_record_message(TransactionLogKey, key).transactional_id
    return TransactionRecord(transactional_id, None if value is None else _decode_value(value))


def _encode_value(value: TransactionValue) -> bytes:
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(value.partitions):
        topics.setdefault(topic, []).append(partition)
    partitions = [PartitionsSchema(topic=topic, partition_ids=indexes) for topic, indexes in topics.items()]
    return encode_record_message(
        TransactionLogValue(
            producer_id=value.producer_id,
            previous_producer_id=value.previous_producer_id,
            next_producer_id=value.next_producer_id,
            producer_epoch=value.producer_epoch,
            transaction_timeout_ms=value.timeout_ms,
            transaction_status=value.state,
            transaction_partitions=None if value.state is TransactionState.EMPTY else partitions,
            transaction_last_update_timestamp_ms=value.last_update_ms,
            transaction_start_timestamp_ms=value.start_ms,
            client_transaction_version=value.client_version,
        )
    )


def _decode_value(encoded: bytes) -> TransactionValue:
    value = decode_record_message(TransactionLogValue, encoded)
    try:
        state = TransactionState(value.transaction_status)
    except ValueError:
        raise DecodeError(f"TransactionLogValue with status {value.transaction_status}") from None
    return TransactionValue(
        producer_id=value.producer_id,
        producer_epoch=value.producer_epoch,
        timeout_ms=value.transaction_timeout_ms,
        state=state,
        partitions=frozenset(
            (topic.topic, index) for topic in value.transaction_partitions or () for index in topic.partition_ids
        ),
        last_update_ms=value.transaction_last_update_timestamp_ms,
        start_ms=value.transaction_start_timestamp_ms,
        previous_producer_id=value.previous_producer_id,
        next_producer_id=value.next_producer_id,
        client_version=value.client_transaction_version,
    )
