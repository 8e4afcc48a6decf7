"""Random histories of commits inside and outside of transactions, from a seed: markers late, repeated or never, slow,
full and lost logs, crashes at any point.

All along, the state is what a model makes of the log that goes by the log's offsets alone, as Kafka does; and nothing
is shown that could still be lost, or that belongs to a transaction that has not committed.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker.coordinator.group.records import CommittedOffset, OffsetCommit, decode_record
from broker.coordinator.log import LogBatch
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import Coordinator

STEPS = 300
CHECKED_EACH = 4
GROUPS = ("a", "b")
PRODUCERS = 3
PARTITIONS = 2

Key = tuple[str, str, int]


class Model:
    """What a log says, by Kafka's rule: a committed offset yields only to one whose record is behind its own."""

    def __init__(self, batches: list[LogBatch]) -> None:
        self.committed: dict[Key, tuple[int, CommittedOffset]] = {}
        self.pending: dict[int, dict[Key, tuple[int, CommittedOffset]]] = {}
        self.ever: set[tuple[Key, int]] = set()
        """Keys and offsets that counted at some time."""
        for batch in batches:
            if batch.commit is None:
                for position, ((key, value), _) in enumerate(batch.records):
                    record = decode_record(key, value)
                    if isinstance(record, OffsetCommit):
                        self._take(batch.offset + position, batch.producer_id, record)
            else:
                for name, (offset, committed) in self.pending.pop(batch.producer_id, {}).items():
                    if batch.commit and offset > self.committed.get(name, (-1,))[0]:
                        self._count(name, offset, committed)

    def _count(self, name: Key, offset: int, committed: CommittedOffset) -> None:
        self.committed[name] = offset, committed
        self.ever.add((name, committed.offset))

    def _take(self, offset: int, producer_id: int, record: OffsetCommit) -> None:
        name = (record.group_id, record.topic, record.partition)
        if producer_id >= 0:
            assert record.committed is not None
            self.pending.setdefault(producer_id, {})[name] = offset, record.committed
        elif record.committed is not None:
            self._count(name, offset, record.committed)
        else:
            self.committed.pop(name, None)
            for pending in self.pending.values():
                pending.pop(name, None)

    def held(self) -> dict[Key, list[tuple[int, CommittedOffset | None]]]:
        """Pending ones in the order of the log; None for what something later has superseded."""
        ordered = sorted(
            (offset, name, producer_id, committed)
            for producer_id, pending in self.pending.items()
            for name, (offset, committed) in pending.items()
        )
        held: dict[Key, list[tuple[int, CommittedOffset | None]]] = {}
        for offset, name, producer_id, committed in ordered:
            superseded = offset < self.committed.get(name, (-1,))[0]
            held.setdefault(name, []).append((producer_id, None if superseded else committed))
        return held


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.coordinator = Coordinator(MemoryLog())
        self.next_offset = 0
        self.asked: list[tuple[str, Reply]] = []
        self.trace: list[Any] = []

    def run(self) -> list[Any]:
        steps = {
            self.commit: 15,
            self.commit_in_transaction: 40,
            self.end_transaction: 20,
            self.fetch: 25,
            self.durable: 40,
            self.crash: 4,
            self.lose_log: 2,
            self.fill_or_free: 3,
            self.delete_offsets: 3,
            self.delete_group: 2,
            self.tick: 10,
        }
        for number in range(STEPS):
            self.random.choices([*steps], [*steps.values()])[0]()
            self.settle()
            if self.coordinator.shard.state.value != "active":
                self.crash()
            if number % CHECKED_EACH == 0 and not self.coordinator.log.full:
                self.check()
        self.quiet_down()
        return self.trace

    # -- steps ------------------------------------------------------------------------------------------------------
    def place(self) -> tuple[str, dict[tuple[str, int], int]]:
        """A group, and offsets that were never committed before."""
        partitions = self.random.sample(range(PARTITIONS), self.random.randint(1, PARTITIONS))
        self.next_offset += len(partitions)
        return self.random.choice(GROUPS), {("t", index): self.next_offset - index for index in partitions}

    def commit(self) -> None:
        group_id, offsets = self.place()
        self.asked.append(("commit", self.coordinator.commit(group_id, offsets)))

    def commit_in_transaction(self) -> None:
        group_id, offsets = self.place()
        producer_id = self.random.randrange(PRODUCERS)
        reply = self.coordinator.commit_in_transaction(group_id, offsets, producer_id=producer_id)
        self.asked.append(("in transaction", reply))

    def end_transaction(self) -> None:
        """For any producer, open or not: the coordinator repeats what was not answered."""
        reply = self.coordinator.end_transaction(
            self.random.random() < 0.6, producer_id=self.random.randrange(PRODUCERS)
        )
        self.asked.append(("end", reply))

    def fetch(self) -> None:
        group_id, partition = self.random.choice(GROUPS), self.random.randrange(PARTITIONS)
        stable = self.random.random() < 0.5
        reply = self.coordinator.fetch(group_id, ("t", partition), stable=stable)
        log = self.coordinator.log

        def answered(_: object) -> None:
            if isinstance(reply.response, ErrorCode):
                return
            shown = reply.response.topics[0].partitions[0]
            if shown.committed_offset < 0:
                return
            name = (group_id, "t", partition)
            counted = Model(log.durable_batches()).ever
            assert (name, shown.committed_offset) in counted, "shown, but it does not count or could still be lost"

        if reply.done:
            answered(reply)
        else:
            reply.on_complete = answered
        self.asked.append(("fetch", reply))

    def durable(self) -> None:
        log = self.coordinator.log
        log.sync(self.random.randint(log.durable_offset, log.end_offset))

    def crash(self) -> None:
        log = self.coordinator.log
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def lose_log(self) -> None:
        log = self.coordinator.log
        log.fail()
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def restart(self, log: MemoryLog) -> None:
        log.durable_offset = log.end_offset
        self.coordinator.restart(log)
        self.check()

    def fill_or_free(self) -> None:
        log = self.coordinator.log
        log.full = not log.full
        if not log.full:
            self.coordinator.advance(100)

    def delete_offsets(self) -> None:
        group_id = self.random.choice(GROUPS)
        reply = self.coordinator.delete_offsets(group_id, ("t", self.random.randrange(PARTITIONS)))
        self.asked.append(("delete", reply))

    def delete_group(self) -> None:
        self.asked.append(("delete group", self.coordinator.delete_group(self.random.choice(GROUPS))))

    def tick(self) -> None:
        self.coordinator.advance(self.random.randrange(1, 200))

    # -- invariants -------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        waiting = []
        for kind, reply in self.asked:
            if reply.done:
                self.trace.append((self.coordinator.scheduler.now_ms, kind, repr(reply.response)))
            else:
                waiting.append((kind, reply))
        self.asked = waiting

    def check(self) -> None:
        """With everything written, the state is what the log says."""
        model = Model(self.coordinator.log.batches)
        groups = self.coordinator.groups
        assert {
            (group_id, topic, partition): committed
            for group_id, group in groups.items()
            for topic, partitions in group.offsets.items()
            for partition, committed in partitions.items()
        } == {name: committed for name, (_, committed) in model.committed.items()}
        held = {
            (group_id, *key): [*each.items()]
            for group_id, group in groups.items()
            for key, each in group.transactional.items()
        }
        assert held == model.held()
        assert set(groups) == {name[0] for name in held} | {name[0] for name in model.committed}

    def quiet_down(self) -> None:
        log = self.coordinator.log
        log.full = False
        self.coordinator.advance(200)
        for producer_id in range(PRODUCERS):
            self.coordinator.end_transaction(self.random.random() < 0.5, producer_id=producer_id)
        self.coordinator.log.sync()
        self.settle()
        assert not self.asked
        self.check()
        assert not self.coordinator.shard.machine.transactional.open_producers
        self.restart(self.coordinator.log.survivor())


@pytest.mark.parametrize("seed", range(30))
def test_offsets_are_what_the_log_says_whatever_happens(seed: int) -> None:
    Simulation(seed).run()


def test_the_same_seed_gives_the_same_trace() -> None:
    assert Simulation(4711).run() == Simulation(4711).run()
