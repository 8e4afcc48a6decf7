"""Random histories of one group whose members speak either protocol, from a seed.

Members join, leave, die, dawdle, lose answers and repeat requests; topics come, grow and go; the coordinator crashes
between any two records, and its log is slow. Whatever happens, no partition has two owners, and epochs do not go
back. Once it is quiet, every partition of every subscribed topic has one owner, and nobody has anything else.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker.coordinator.group.consumer.config import ConsumerGroupConfig, Interval
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.memory_log import MemoryLog
from tests.broker.coordinator.consumer.members import ClassicConsumer, Cluster, Consumer, Partition
from tests.broker.coordinator.harness import Coordinator

STEPS = 500
TOPICS = ("a", "b", "other")


class Simulation:
    def __init__(self, seed: int, *, classic: bool, cooperative: bool = True) -> None:
        self.random = random.Random(seed)
        self.classic = classic
        self.cooperative = cooperative
        interval = self.random.choice([0, 0, 1_000])
        config = ConsumerGroupConfig(assignment_interval=Interval(interval, 0, 15_000))
        self.coordinator = Coordinator(MemoryLog(), seed=f"{seed}-", initial_rebalance_delay_ms=0, consumer=config)
        self.cluster = Cluster(self.coordinator)
        self.topics = self.coordinator.topics
        self.topics.put("a", 4)
        self.topics.put("b", 3)
        self.consumers: list[Consumer | ClassicConsumer] = []
        self.left: list[Consumer] = []
        self.count = 0
        self.trace: list[Any] = []
        self.group_epoch = 0
        self.topic_count = 0

    def run(self) -> list[Any]:
        steps = {
            self.beat: 120,
            self.act: 60,
            self.durable: 60,
            self.tick: 40,
            self.join: 8,
            self.leave: 3,
            self.die: 3,
            self.dawdle: 1,
            self.lose_answer: 4,
            self.repeat: 8,
            self.subscribe: 3,
            self.change_topics: 3,
            self.crash: 4,
        }
        for _ in range(STEPS):
            step = self.random.choices([*steps], [*steps.values()])[0]
            step()
            for each in self.consumers:
                each.receive()
            self.check()
        self.quiet_down()
        return self.trace

    # -- steps ---------------------------------------------------------------------------------------------------------
    def any(self) -> Consumer | ClassicConsumer | None:
        return self.random.choice(self.consumers) if self.consumers else None

    def beat(self) -> None:
        if (each := self.any()) is not None:
            each.beat()

    def act(self) -> None:
        if (each := self.any()) is not None:
            each.act()

    def durable(self) -> None:
        log = self.coordinator.log
        log.sync(self.random.randint(log.durable_offset, log.end_offset))

    def tick(self) -> None:
        self.coordinator.advance(self.random.randrange(3_000))

    def join(self) -> None:
        if len(self.consumers) >= 6:
            return
        self.count += 1
        topics = self.random.choice([["a"], ["a", "b"], ["b", "a", "other"]])
        if self.classic and self.random.random() < 0.5:
            self.consumers.append(ClassicConsumer(self.cluster, f"k{self.count}", topics, cooperative=self.cooperative))
        elif self.left and self.random.random() < 0.7:
            back = self.left.pop()
            self.consumers.append(Consumer(self.cluster, f"m{self.count}", back.topics, back.instance_id))
        else:
            instance_id = f"i{self.count}" if self.random.random() < 0.3 else None
            consumer = Consumer(self.cluster, f"m{self.count}", topics, instance_id)
            consumer.assignor = self.random.choice([None, None, "range", "uniform"])
            self.consumers.append(consumer)

    def leave(self) -> None:
        if (each := self.any()) is not None:
            self.consumers.remove(each)
            if isinstance(each, Consumer) and each.instance_id is not None and self.random.random() < 0.7:
                each.leave(epoch=-2)
                self.left.append(each)
            else:
                each.leave()

    def die(self) -> None:
        if (each := self.any()) is not None:
            self.consumers.remove(each)
            each.stop()

    def dawdle(self) -> None:
        """Everybody but one goes on for longer than its session."""
        slow = self.any()
        for _ in range(8):
            self.coordinator.advance(8_000)
            for each in self.consumers:
                if each is not slow:
                    each.receive()
                    each.act()
                    each.beat()
            self.durable()
            self.check()

    def lose_answer(self) -> None:
        self.coordinator.log.sync()
        if (each := self.any()) is not None:
            each.beat()
            self.coordinator.log.sync()
            each.receive(lost=True)

    def repeat(self) -> None:
        each = self.any()
        if isinstance(each, Consumer):
            each.repeat()

    def subscribe(self) -> None:
        each = self.any()
        if isinstance(each, Consumer):
            each.subscribe(
                *self.random.choice([(["a"], ""), (["a", "b"], ""), ([], "a|b"), (["b"], "o.*"), ([], "t.*")])
            )
        elif each is not None:
            each.topics = self.random.choice([["a"], ["a", "b"]])
            each.must_join = True

    def change_topics(self) -> None:
        known = [name for name in (*TOPICS, "t1", "t2") if self.topics.topic(name) is not None]
        choice = self.random.random()
        if choice < 0.4:
            name = self.random.choice(known)
            topic = self.topics.topic(name)
            assert topic is not None
            if topic.partition_count < 8:
                self.topics.put(name, topic.partition_count + 1)
        elif choice < 0.8 or len(known) < 2:
            self.topic_count += 1
            name = self.random.choice([*TOPICS, "t1", "t2"])
            if self.topics.topic(name) is None:
                self.topics.put(name, self.random.randint(1, 3), self.topic_count.to_bytes(16, "big"))
        else:
            self.topics.remove(self.random.choice(known))

    def crash(self) -> None:
        log = self.coordinator.log
        end = self.random.randint(log.durable_offset, log.end_offset)
        self.coordinator.restart(log.survivor(end))
        self.group_epoch = 0

    # -- what must hold ------------------------------------------------------------------------------------------------
    def check(self) -> None:
        owners: dict[Partition, str] = {}
        for each in self.consumers:
            for partition in each.owns():
                assert partition not in owners, f"{partition} of {owners[partition]} and {each.name}"
                owners[partition] = each.name
        group = self.coordinator.groups.get("g")
        if isinstance(group, ConsumerGroup):
            assert group.assignment_epoch <= group.epoch
            assert self.group_epoch <= group.epoch
            self.group_epoch = group.epoch
            for member_id in group.members:
                assert group.current_of(member_id).epoch <= group.assignment_epoch
            self.check_owners(group)
        else:
            self.group_epoch = 0
        self.trace.append((self.cluster.now_ms, self.coordinator.log.end_offset, sorted(owners.items())))

    def check_owners(self, group: ConsumerGroup) -> None:
        """The index of owners is what the members' assignments say, and no two of them have one partition."""
        owners: dict[bytes, dict[int, str]] = {}
        for member_id, current in group.current.items():
            for owned in (current.assigned, current.revoking):
                for topic_id, partitions in owned.items():
                    for index in partitions:
                        assert index not in owners.setdefault(topic_id, {})
                        owners[topic_id][index] = member_id
        assert owners == group.owners

    def quiet_down(self) -> None:
        for _ in range(60):
            self.coordinator.advance(3_000)
            for each in self.consumers:
                each.act()
                each.beat()
            self.coordinator.log.sync()
            for each in self.consumers:
                each.receive()
            self.check()
        owned = [partition for each in self.consumers for partition in each.owns()]
        wanted: set[Partition] = set()
        for each in self.consumers:
            names = set(each.topics)
            if isinstance(each, Consumer) and each.regex:
                names |= self.topics.matching(each.regex)
            topics = [topic for name in names if (topic := self.topics.topic(name)) is not None]
            mine = {(topic.topic_id, index) for topic in topics for index in range(topic.partition_count)}
            assert each.owns() <= mine
            wanted |= mine
        assert len(owned) == len(set(owned))
        if self.topics_are_followed():
            assert set(owned) == wanted

    def topics_are_followed(self) -> bool:
        """In a classic group it is the leader who should look after the topics, which these do not."""
        return isinstance(self.coordinator.groups.get("g"), ConsumerGroup) or not self.consumers


@pytest.mark.parametrize("seed", range(25))
def test_no_partition_ever_has_two_owners_and_in_the_end_each_has_one(seed: int) -> None:
    Simulation(seed, classic=False).run()


@pytest.mark.parametrize("cooperative", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_nor_while_the_group_migrates_from_and_to_the_classic_protocol(seed: int, cooperative: bool) -> None:
    Simulation(seed, classic=True, cooperative=cooperative).run()


def test_the_same_seed_is_the_same_history() -> None:
    for cooperative in (False, True):
        first, second = (Simulation(7, classic=True, cooperative=cooperative).run() for _ in range(2))
        assert first == second
