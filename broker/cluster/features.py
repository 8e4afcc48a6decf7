"""Feature levels of the cluster (KIP-584), by Kafka's names, as ApiVersions tells them.

transaction.version  1: transaction records in a flexible format; 2: an epoch for each transaction, partitions added by
                     what is produced to them (KIP-890)
group.version        1: consumer groups of the new protocol (KIP-848)

A level is what all brokers of a cluster keep to. They are constants of this software: `EPOCH` grows with every change
of a finalized level, so that clients believe the newest broker.
"""

from __future__ import annotations

from typing import NamedTuple

EPOCH = 1


class Feature(NamedTuple):
    name: str
    min_level: int
    max_level: int
    finalized_level: int


FEATURES = (
    Feature("group.version", 0, 1, 1),
    Feature("transaction.version", 0, 2, 2),
)
