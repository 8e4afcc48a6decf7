"""Who leads what, and who will, against a model in a page of Python."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from s3stream.catalog import open_catalog
from s3stream.catalog.api import BrokerInfo, BrokerUnavailable, Catalog, NewTopic, StreamEpochFenced, TopicInfo
from tests.integration.postgres import PostgresServer
from tests.s3stream.catalog.steps import register
from tests.s3stream.catalog.test_model import model_settings

T = TypeVar("T")
NODES = (1, 2, 3)
PARTITIONS = 3
INDEXES = st.integers(0, PARTITIONS - 1)


@dataclass
class Partition:
    leader: int = 1
    epoch: int = 0
    target: int | None = None
    replicas: tuple[int, ...] = ()
    former: tuple[int, ...] | None = None
    opened_by: int | None = None
    """Broker epoch."""

    def given_to(self, leader: int) -> None:
        self.leader, self.epoch, self.target, self.former = leader, self.epoch + 1, None, None

    def stays(self) -> None:
        """No move, and no reassignment either."""
        if self.former is not None:
            self.replicas, self.former = self.former, None
        self.target = None


@dataclass
class Broker:
    info: BrokerInfo
    is_up: bool = True
    leaving: bool = False
    unrecovered: bool = False


@dataclass
class Model:
    partitions: list[Partition] = field(default_factory=lambda: [Partition() for _ in range(PARTITIONS)])
    brokers: dict[int, Broker] = field(default_factory=dict)

    def usable(self) -> set[int]:
        return {node for node, broker in self.brokers.items() if broker.is_up and not broker.leaving}


class LeadersModel(RuleBasedStateMachine):
    url: ClassVar[Any] = staticmethod(lambda: "sqlite://")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.catalog: Catalog = self.run(open_catalog(type(self).url()))
        self.model = Model()
        self.topic: TopicInfo

    def teardown(self) -> None:
        self.run(self.catalog.close())
        self.runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @initialize()
    def start(self) -> None:
        self.topic = self.run(self.catalog.create_topic(NewTopic("t", [1] * PARTITIONS, {})))
        for node in NODES:
            self.model.brokers[node] = Broker(self.run(register(self.catalog, node)))

    # -- plans ------------------------------------------------------------------------------------------------------
    @rule(index=INDEXES, node=st.sampled_from([*NODES, None]))
    def set_target(self, index: int, node: int | None) -> None:
        call = self.catalog.set_targets({self.topic.topic_id: {index: node}})
        if node is not None and node not in self.model.usable():
            with pytest.raises(BrokerUnavailable):
                self.run(call)
            return
        self.run(call)
        partition = self.model.partitions[index]
        wanted = None if node == partition.leader else node
        if wanted != partition.target:
            partition.stays()
            partition.target = wanted

    @rule(index=INDEXES, replicas=st.permutations(NODES).flatmap(lambda p: st.integers(1, 3).map(lambda n: p[:n])))
    def assign(self, index: int, replicas: list[int]) -> None:
        partition = self.model.partitions[index]
        usable = [node for node in replicas if node in self.model.usable()]
        call = self.catalog.set_replicas({self.topic.topic_id: {index: replicas}})
        if partition.leader not in replicas and not usable:
            with pytest.raises(BrokerUnavailable):
                self.run(call)
            return
        self.run(call)
        before = partition.replicas if partition.former is None else partition.former
        stays = partition.leader in replicas
        partition.former, partition.target = (None, None) if stays else (before, usable[0])
        partition.replicas = tuple(replicas)

    @rule(index=INDEXES)
    def take_back(self, index: int) -> None:
        self.run(self.catalog.set_replicas({self.topic.topic_id: {index: None}}))
        if self.model.partitions[index].former is not None:
            self.model.partitions[index].stays()

    # -- leaders ----------------------------------------------------------------------------------------------------
    @rule(index=INDEXES)
    def open_at_its_leader(self, index: int) -> None:
        partition = self.model.partitions[index]
        broker = self.model.brokers.get(partition.leader)
        if broker is None or not broker.is_up:
            return
        call = self.catalog.open_streams(
            partition.leader, broker.info.epoch, [self.topic.partitions[index].log_stream_id]
        )
        if partition.opened_by not in (None, broker.info.epoch):
            with pytest.raises(StreamEpochFenced):
                self.run(call)
            return
        self.run(call)
        partition.opened_by = broker.info.epoch

    @rule(node=st.sampled_from(NODES), indexes=st.sets(INDEXES, min_size=1))
    def hand_over(self, node: int, indexes: set[int]) -> None:
        broker = self.model.brokers[node]
        if not broker.is_up:
            return
        found = self.run(self.catalog.hand_over(node, broker.info.epoch, {self.topic.topic_id: sorted(indexes)}))
        for index in indexes:
            partition = self.model.partitions[index]
            if partition.leader == node and partition.target in self.model.usable():
                if partition.opened_by == broker.info.epoch:
                    partition.opened_by = None
                partition.given_to(partition.target)
        elsewhere = {index for index in indexes if self.model.partitions[index].leader != node}
        assert set(found.get(self.topic.topic_id, {})) == elsewhere

    @rule(node=st.sampled_from(NODES))
    def leave(self, node: int) -> None:
        if self.model.brokers[node].is_up:
            self.run(self.catalog.leave(node, self.model.brokers[node].info.epoch))
            self.model.brokers[node].leaving = True

    @rule(node=st.sampled_from(NODES))
    def die(self, node: int) -> None:
        broker = self.model.brokers[node]
        if broker.is_up and sum(each.is_up for each in self.model.brokers.values()) > 1:
            self.run(self.catalog.fence_broker(node, broker.info.epoch))
            broker.is_up = False
            broker.unrecovered = any(each.opened_by == broker.info.epoch for each in self.model.partitions)

    @rule(node=st.sampled_from(NODES))
    def come_back(self, node: int) -> None:
        if not self.model.brokers[node].is_up and not self.model.brokers[node].unrecovered:
            self.model.brokers[node] = Broker(self.run(register(self.catalog, node)))

    @rule(node=st.sampled_from(NODES))
    def recover(self, node: int) -> None:
        dead = self.model.brokers[node]
        heir = next(each for each in self.model.brokers.values() if each.is_up)
        if dead.unrecovered:
            self.run(self.catalog.recovered(node, dead.info.epoch, heir.info.node_id, heir.info.epoch))
            dead.unrecovered = False
            for partition in self.model.partitions:
                if partition.opened_by == dead.info.epoch:
                    partition.opened_by = None

    @rule(node=st.sampled_from(NODES))
    def claim(self, node: int) -> None:
        broker = self.model.brokers[node]
        if not broker.is_up:
            return
        usable = self.model.usable() or {node}
        for partition in self.model.partitions:
            if partition.target is not None and partition.target not in usable:
                partition.stays()
        fenced = {each.info.epoch for each in self.model.brokers.values() if each.unrecovered}
        unled = [
            (index, each)
            for index, each in enumerate(self.model.partitions)
            if each.leader != node and not self.model.brokers[each.leader].is_up and each.opened_by not in fenced
        ]
        assert self.run(self.catalog.claim_partitions(node, broker.info.epoch)) == len(unled)
        now = self.present().partitions
        for index, partition in unled:
            expected = (
                {partition.target} if partition.target is not None else usable & set(partition.replicas) or usable
            )
            assert now[index].leader in expected
            partition.given_to(now[index].leader)

    # -- what must agree ----------------------------------------------------------------------------------------------
    def present(self) -> TopicInfo:
        found = self.run(self.catalog.load_changes(0)).topics[self.topic.topic_id]
        assert found is not None
        return found

    @invariant()
    def partitions_agree(self) -> None:
        if not self.model.brokers:
            return
        found = [
            (each.leader, each.leader_epoch, each.target, each.replicas, each.former_replicas)
            for each in self.present().partitions
        ]
        assert found == [(p.leader, p.epoch, p.target, p.replicas, p.former) for p in self.model.partitions]


def test_sqlite_behaves_as_the_model() -> None:
    run_state_machine_as_test(LeadersModel, settings=model_settings(3))  # type: ignore[no-untyped-call]


@pytest.mark.integration
def test_postgresql_behaves_as_the_model(postgres_server: PostgresServer) -> None:
    class OnPostgres(LeadersModel):
        url = staticmethod(postgres_server.new_database)

    run_state_machine_as_test(OnPostgres, settings=model_settings(3))  # type: ignore[no-untyped-call]
