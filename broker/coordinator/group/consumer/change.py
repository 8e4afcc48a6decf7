"""`Change`: a group as one operation is about to leave it.

Persisted state changes only when the shard replays what an operation wrote, after it. An operation of several steps
needs to see what the former ones lead to, so each record that it writes is applied to a copy as well, by the very
same code.
"""

from __future__ import annotations

from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.records import ConsumerRecord
from broker.coordinator.machine import Outcome


class Change:
    """`group` is to be read anew after each `write`: nothing is copied for an operation that changes nothing."""

    __slots__ = ("_copied", "group", "out")

    def __init__(self, group: ConsumerGroup, out: Outcome) -> None:
        self.group = group
        self.out = out
        self._copied = False

    @property
    def group_id(self) -> str:
        return self.group.group_id

    def write(self, *records: ConsumerRecord) -> None:
        if records and not self._copied:
            self.group = self.group.copy()
            self._copied = True
        for record in records:
            self.out.write(record)
            self.group.apply(record)
