"""`MarkerJob`: the markers that one decided transaction still needs."""

from __future__ import annotations

from broker.coordinator.transaction.records import TopicPartition


class MarkerJob:
    """Made for a Prepare record that is durable. `remaining` shrinks as partitions answer; at none the job is done.

    A job is known by identity: one that was made anew after a shard loaded again is another job.
    """

    __slots__ = ("commit", "producer_epoch", "producer_id", "remaining", "transaction_version", "transactional_id")

    def __init__(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        commit: bool,
        transaction_version: int,
        partitions: frozenset[TopicPartition],
    ) -> None:
        self.transactional_id = transactional_id
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.commit = commit
        self.transaction_version = transaction_version
        self.remaining = set(partitions)
