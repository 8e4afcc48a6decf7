"""Partitions: the rules of Kafka's log over streams. See `broker.partition.partition`."""

from broker.partition.errors import BatchRefused, PartitionError, code_of
from broker.partition.partition import Appended, Partition
from broker.partition.producer_state import ActiveProducer
from broker.partition.verification import NOT_REQUIRED, VerificationGuard
from broker.partition.waiters import FetchWaiter

__all__ = [
    "NOT_REQUIRED",
    "ActiveProducer",
    "Appended",
    "BatchRefused",
    "FetchWaiter",
    "Partition",
    "PartitionError",
    "VerificationGuard",
    "code_of",
]
