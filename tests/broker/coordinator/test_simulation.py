"""Random histories of one coordinator, from a seed: requests early, late and twice, clock jumps, lost and slow logs,
crashes at any point. What must hold whatever happens is checked all along the way.

A failing seed is printed by pytest's id of the case; run it again to see the same trace.
"""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest

from broker.coordinator.group.records import GroupMetadata, OffsetCommit, decode_record
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import Coordinator, subscription

STEPS = 400
GROUPS = ("a", "b")
REBALANCE_MS = 20_000
SESSION_MS = 10_000
DELAY_MS = 3_000


class Client:
    """A consumer that does what it is told, more or less."""

    def __init__(self, name: str, group_id: str, instance_id: str | None) -> None:
        self.name = name
        self.group_id = group_id
        self.instance_id = instance_id
        self.member_id = ""
        self.generation = -1
        self.leads: list[str] = []
        self.joining: tuple[Reply, int] | None = None
        self.syncing: tuple[Reply, int, int, str] | None = None


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lives = 0
        self.coordinator = Coordinator(MemoryLog(), size_max=5, seed="0-")
        self.clients = [
            Client(f"c{index}", GROUPS[index % 2], f"i{index}" if index % 3 == 0 else None) for index in range(8)
        ]
        self.trace: list[Any] = []
        self.assigned: dict[tuple[str, int], dict[str, bytes]] = {}
        self.asked: list[tuple[str, Reply]] = []
        self.committed: dict[tuple[str, str, int], list[int]] = {}
        self.next_offset = 0

    # -- steps ------------------------------------------------------------------------------------------------------
    def run(self) -> list[Any]:
        steps = {
            self.join: 30,
            self.sync: 30,
            self.heartbeat: 20,
            self.commit: 20,
            self.fetch: 15,
            self.leave: 3,
            self.durable: 60,
            self.tick: 40,
            self.jump: 3,
            self.crash: 2,
            self.lose_log: 1,
            self.fill_or_free: 3,
            self.delete_group: 1,
        }
        for _ in range(STEPS):
            step = self.random.choices([*steps], [*steps.values()])[0]
            step()
            self.settle()
            self.check()
        self.quiet_down()
        return self.trace

    def client(self) -> Client:
        return self.random.choice(self.clients)

    def now(self) -> int:
        return self.coordinator.scheduler.now_ms

    def join(self) -> None:
        client = self.client()
        member_id = client.member_id if self.random.random() < 0.9 else self.random.choice(["", "stranger"])
        protocols = {"range": subscription("t"), "sticky": b"s"}
        if self.random.random() < 0.3:
            protocols = dict(reversed(protocols.items()))
        reply = self.coordinator.join(
            client.group_id,
            member_id,
            instance_id=client.instance_id,
            protocols=protocols,
            version=self.random.choice([3, 5, 9]),
            session_ms=SESSION_MS,
            rebalance_ms=REBALANCE_MS,
            client_id=client.name,
        )
        client.joining = (reply, self.now())

    def sync(self) -> None:
        client = self.client()
        assignments = {}
        if client.leads:
            self.next_offset += 1
            assignments = {each: f"{client.group_id}/{each}/{self.next_offset}".encode() for each in client.leads}
        reply = self.coordinator.sync(
            client.group_id, client.member_id, client.generation, assignments, instance_id=client.instance_id
        )
        client.syncing = (reply, self.now(), client.generation, client.member_id)

    def heartbeat(self) -> None:
        client = self.client()
        reply = self.coordinator.heartbeat(client.group_id, client.member_id, client.generation, client.instance_id)
        self.asked.append(("heartbeat", reply))

    def commit(self) -> None:
        client = self.client()
        self.next_offset += 1
        partition = self.random.randrange(3)
        offset = self.next_offset
        reply = self.coordinator.commit(
            client.group_id,
            {("t", partition): offset},
            member_id=client.member_id,
            generation=client.generation,
            instance_id=client.instance_id,
        )
        self.asked.append(("commit", reply))

    def fetch(self) -> None:
        group_id, partition = self.random.choice(GROUPS), self.random.randrange(3)
        coordinator = self.coordinator
        reply = coordinator.fetch(group_id, ("t", partition))

        def answered(_: object) -> None:
            if not isinstance(reply.response, ErrorCode):
                offset = reply.response.topics[0].partitions[0].committed_offset
                durable = self.durable_values(coordinator.log, group_id, partition)
                assert offset in durable, f"offset {offset} was shown and is not durable: {durable}"

        if reply.done:
            answered(reply)
        else:
            reply.on_complete = answered
        self.asked.append(("fetch", reply))

    def durable_values(self, log: MemoryLog, group_id: str, partition: int) -> list[int]:
        values = [-1]
        for (key, value), _ in chain.from_iterable(batch.records for batch in log.durable_batches()):
            record = decode_record(key, value)
            if isinstance(record, OffsetCommit) and (record.group_id, record.partition) == (group_id, partition):
                values.append(-1 if record.committed is None else record.committed.offset)
        return values

    def leave(self) -> None:
        client = self.client()
        self.asked.append(("leave", self.coordinator.leave(client.group_id, (client.member_id, client.instance_id))))

    def delete_group(self) -> None:
        self.asked.append(("delete", self.coordinator.delete_group(self.random.choice(GROUPS))))

    def durable(self) -> None:
        log = self.coordinator.log
        log.sync(self.random.randint(log.durable_offset, log.end_offset))

    def tick(self) -> None:
        self.coordinator.advance(self.random.randrange(1, 2_000))

    def jump(self) -> None:
        self.coordinator.advance(self.random.randrange(5_000, 60_000))

    def crash(self) -> None:
        log = self.coordinator.log
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def fill_or_free(self) -> None:
        """For less than the time after which a shard gives up, as time-outs are counted against the log's answers."""
        log = self.coordinator.log
        log.full = True
        self.tick()
        log.full = False
        self.coordinator.advance(100)

    def lose_log(self) -> None:
        log = self.coordinator.log
        log.fail()
        self.restart(log.survivor(self.random.randint(log.durable_offset, log.end_offset)))

    def restart(self, log: MemoryLog) -> None:
        log.durable_offset = log.end_offset
        self.lives += 1
        self.coordinator.restart(log)
        self.check_replayed()

    # -- answers ----------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        for client in self.clients:
            self.settle_join(client)
            self.settle_sync(client)
        waiting = []
        for kind, reply in self.asked:
            if reply.done:
                self.trace.append((self.now(), kind, repr(reply.response)))
            else:
                waiting.append((kind, reply))
        self.asked = waiting

    def settle_join(self, client: Client) -> None:
        if client.joining is None or not client.joining[0].done:
            return
        response = client.joining[0].response
        client.joining = None
        self.trace.append((self.now(), "join", client.name, repr(response)))
        code = response.error_code
        if code in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED):
            client.member_id = response.member_id
        elif code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID, ErrorCode.GROUP_MAX_SIZE_REACHED):
            client.member_id = ""
        if code == ErrorCode.NONE:
            client.generation = response.generation_id
            client.leads = [each.member_id for each in response.members]
            assert (response.leader == response.member_id) or not client.leads
            assert not client.leads or response.member_id in client.leads

    def settle_sync(self, client: Client) -> None:
        if client.syncing is None or not client.syncing[0].done:
            return
        reply, _, generation, member_id = client.syncing
        client.syncing = None
        self.trace.append((self.now(), "sync", client.name, repr(reply.response)))
        if reply.response.error_code == ErrorCode.NONE and reply.response.assignment:
            group_id, owner, _ = reply.response.assignment.decode().split("/")
            assert group_id == client.group_id, "an assignment of another group"
            if client.instance_id is None:
                assert owner == member_id, "an assignment of another member"
            known = self.assigned.setdefault((group_id, generation), {})
            key = f"{self.lives}/{owner}"
            assert known.setdefault(key, reply.response.assignment) == reply.response.assignment, (
                "one generation's assignment changed"
            )

    # -- invariants -------------------------------------------------------------------------------------------------
    def check(self) -> None:
        now = self.now()
        parked = self.coordinator.shard.machine.waiting()
        for client in self.clients:
            for waiting in (client.joining, client.syncing):
                if waiting is not None and waiting[0] in parked:
                    assert now - waiting[1] <= REBALANCE_MS + DELAY_MS, "a request is parked for too long"
        for group in self.coordinator.groups.values():
            members = group.members
            awaiting = [each for each in members.values() if each.awaiting_join is not None]
            assert group.awaiting_join_count == len(awaiting)
            assert set(group.static_members.values()) <= set(members)
            assert not members or group.leader in members
            assert set(group.pending_sync) <= set(members)
            for name, count in group.support.items():
                assert count == sum(name in dict(each.protocols) for each in members.values())
            state = group.state.value
            assert state != "Empty" or not members
            assert state in ("PreparingRebalance", "Empty") or members
            assert not awaiting or state == "PreparingRebalance"
            assert state == "CompletingRebalance" or all(each.awaiting_sync is None for each in members.values())

    def check_replayed(self) -> None:
        """What was loaded is what the log says, record by record, without any shortcut."""
        offsets: dict[tuple[str, str, int], Any] = {}
        groups: dict[str, Any] = {}
        for (key, value), _ in self.coordinator.log.records:
            record = decode_record(key, value)
            if isinstance(record, OffsetCommit):
                name = (record.group_id, record.topic, record.partition)
                if record.committed is None:
                    offsets.pop(name, None)
                else:
                    offsets[name] = record.committed
            elif isinstance(record, GroupMetadata):
                if record.value is None:
                    groups.pop(record.group_id, None)
                else:
                    groups[record.group_id] = record.value
        loaded = self.coordinator.groups
        assert set(loaded) == set(groups) | {name[0] for name in offsets}
        assert offsets == {
            (group_id, topic, partition): committed
            for group_id, group in loaded.items()
            for topic, partitions in group.offsets.items()
            for partition, committed in partitions.items()
        }
        for group_id, value in groups.items():
            group = loaded[group_id]
            if len(value.members) > self.coordinator.config.size_max:
                continue
            assert group.state.value == ("Stable" if value.members else "Empty")
            assignments = {each.member_id: each.assignment for each in group.members.values()}
            again = group.record(assignments, value.state_timestamp).value
            assert again == value

    def quiet_down(self) -> None:
        """Once the log keeps up, nobody waits for longer than the rebalance time-out and the initial delays."""
        self.coordinator.log.sync()
        for _ in range(60):
            self.coordinator.advance(1_000)
            self.coordinator.log.sync()
        self.settle()
        assert not self.asked
        assert all(client.joining is None and client.syncing is None for client in self.clients)
        live = {group_id: self.persisted(group) for group_id, group in self.coordinator.groups.items()}
        self.restart(self.coordinator.log.survivor())
        loaded = {group_id: self.persisted(group) for group_id, group in self.coordinator.groups.items()}
        assert loaded == {group_id: live[group_id] for group_id in loaded}
        assert all(not live[group_id][1] for group_id in live.keys() - loaded.keys())

    def persisted(self, group: Any) -> tuple[Any, ...]:
        members = {each.member_id: each.assignment for each in group.members.values()}
        return (group.generation if group.persisted else 0, group.offsets, members if group.persisted else {})


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_promises_are_kept(seed: int) -> None:
    Simulation(seed).run()


def test_the_same_seed_gives_the_same_trace() -> None:
    assert Simulation(4711).run() == Simulation(4711).run()
