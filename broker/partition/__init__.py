"""Partitions: the rules of Kafka's log over streams. See `broker.partition.partition`."""

from broker.partition.errors import BatchRefused, PartitionError, code_of
from broker.partition.partition import Appended, FetchWaiter, Partition

__all__ = ["Appended", "BatchRefused", "FetchWaiter", "Partition", "PartitionError", "code_of"]
