"""`GroupTable`: the groups of a shard by id, and how records of either kind change which kind an id belongs to.

One rule decides: an id whose log holds a record of a classic group (`GroupMetadata`) is a classic group; else, if it
holds any record of a consumer group, it is one; else what offsets it has are a simple consumer's. So

* a group is converted by records that end in, or begin with, that one record: whatever part of them a crash leaves, the
  group is one or the other as a whole;
* the order in which records of different keys are replayed makes no difference. Records of a consumer group whose id is
  still, or already, a classic one are kept aside until that is settled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.coordinator.group.classic import ClassicGroup
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.records import ConsumerRecord, Current, Target
from broker.coordinator.group.group import Group, GroupState
from broker.coordinator.group.records import GroupMetadata, OffsetCommit


class GroupTable:
    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self._aside: dict[str, ConsumerGroup] = {}

    # -- questions --------------------------------------------------------------------------------------------------
    def classic(self, group_id: str) -> ClassicGroup | None:
        group = self.groups.get(group_id)
        return group if isinstance(group, ClassicGroup) else None

    def consumer(self, group_id: str) -> ConsumerGroup | None:
        group = self.groups.get(group_id)
        return group if isinstance(group, ConsumerGroup) else None

    def classic_groups(self) -> Iterator[ClassicGroup]:
        return (group for group in self.groups.values() if isinstance(group, ClassicGroup))

    def consumer_groups(self) -> Iterator[ConsumerGroup]:
        return (group for group in self.groups.values() if isinstance(group, ConsumerGroup))

    def leftovers(self) -> list[ConsumerRecord]:
        """Tombstones for what a crash left of a conversion, or of a member."""
        records: list[ConsumerRecord] = []
        for aside in self._aside.values():
            records += aside.tombstones()
        for group in self.consumer_groups():
            records += (Current(group.group_id, each, None) for each in group.current if each not in group.members)
            records += (Target(group.group_id, each, None) for each in group.target if each not in group.members)
        return records

    def begin_classic(self, group: ClassicGroup) -> list[ConsumerRecord]:
        """A group that members have begun to join, which goes before its records. Returns what removes the consumer
        group without members whose id it takes."""
        former = self.groups.get(group.group_id)
        self._put(group, former)
        if not isinstance(former, ConsumerGroup):
            return []
        self._aside[group.group_id] = former
        return former.tombstones()

    def new_simple(self, group_id: str) -> ClassicGroup:
        """For offsets of a group that does not exist."""
        group = self.groups[group_id] = ClassicGroup(group_id)
        return group

    def drop_if_forgettable(self, group: Group) -> None:
        if group.forgettable and group.state is GroupState.EMPTY:
            del self.groups[group.group_id]

    # -- replay -----------------------------------------------------------------------------------------------------
    def replay(self, record: Any) -> None:
        if isinstance(record, OffsetCommit):
            self._replay_offset(record)
        elif isinstance(record, GroupMetadata):
            self._replay_classic(record)
        else:
            self._replay_consumer(record)

    def _replay_offset(self, record: OffsetCommit) -> None:
        group_id, topic, partition, committed = record
        group = self.groups.get(group_id)
        if committed is not None:
            if group is None:
                group = self.new_simple(group_id)
            group.put_offset(topic, partition, committed)
        elif group is not None:
            group.drop_offset(topic, partition)
            self.drop_if_forgettable(group)

    def _replay_classic(self, record: GroupMetadata) -> None:
        group_id = record.group_id
        group = self.groups.get(group_id)
        if record.value is not None:
            if isinstance(group, ConsumerGroup):
                self._aside[group_id] = group
                group = self._put(ClassicGroup(group_id), group)
            elif group is None:
                group = self._put(ClassicGroup(group_id), None)
            assert isinstance(group, ClassicGroup)
            group.apply(record.value)
        elif isinstance(group, ClassicGroup):
            # offsets that are left, if any, are a simple group's from now on, unless there is a consumer group to
            # take them
            successor = self._aside.pop(group_id, None) or ClassicGroup(group_id)
            self.drop_if_forgettable(self._put(successor, group))

    def _replay_consumer(self, record: ConsumerRecord) -> None:
        group_id = record.group_id
        group = self.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            group.apply(record)
            if not group.has_records:
                self.drop_if_forgettable(self._put(ClassicGroup(group_id), group))
        elif isinstance(group, ClassicGroup) and group.persisted:
            aside = self._aside.setdefault(group_id, ConsumerGroup(group_id))
            aside.apply(record)
            if not aside.has_records:
                del self._aside[group_id]
        elif record.value is not None:
            consumer = ConsumerGroup(group_id)
            consumer.apply(record)
            self._put(consumer, group)

    def _put(self, group: Group, former: Group | None) -> Group:
        """Under its id, with the offsets of the former one."""
        if former is not None:
            group.take_offsets(former)
        self.groups[group.group_id] = group
        return group
