"""Streams and objects against a model in a page of Python: the catalog never answers or refuses otherwise than it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench.postgres_process import PostgresServer
from s3stream.catalog import open_catalog
from s3stream.catalog.api import (
    BrokerFenced,
    BrokerInfo,
    Catalog,
    CatalogError,
    NewObject,
    NewTopic,
    ObjectGone,
    ObjectsReplaced,
    OffsetsNotContinuous,
    StreamEpochFenced,
    StreamRange,
    UnknownStream,
)
from tests.s3stream.catalog.steps import HOUR_MS, register, span

T = TypeVar("T")
NODES = (1, 2)
TOPICS = 3
STREAMS = st.integers(0, 2 * TOPICS - 1)


@dataclass
class Stream:
    epoch: int = 0
    owner: BrokerInfo | None = None
    start: int = 0
    end: int = 0
    deleted: bool = False


@dataclass
class Object:
    broker: BrokerInfo
    state: str = "prepared"
    was_committed: bool = False
    ranges: list[StreamRange] = field(default_factory=list)


class CatalogModel(RuleBasedStateMachine):
    url: ClassVar[Any] = staticmethod(lambda: "sqlite://")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.catalog: Catalog = self.run(open_catalog(type(self).url()))
        self.streams: dict[int, Stream] = {}
        self.topics: list[tuple[Any, list[int]]] = []
        self.brokers: dict[int, BrokerInfo] = {}
        self.fenced: list[BrokerInfo] = []
        self.dead: set[int] = set()
        self.objects: dict[int, Object] = {}

    def teardown(self) -> None:
        self.run(self.catalog.close())
        self.runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def expect(self, error: type[Exception] | None, call: Coroutine[Any, Any, T]) -> T | None:
        if error is None:
            return self.run(call)
        with pytest.raises(error):
            self.run(call)
        return None

    @initialize()
    def start(self) -> None:
        for i in range(TOPICS):
            topic = self.run(self.catalog.create_topic(NewTopic(f"t{i}", [1], {})))
            ids = [topic.partitions[0].log_stream_id, topic.partitions[0].state_stream_id]
            self.topics.append((topic.topic_id, ids))
            self.streams.update({i: Stream() for i in ids})
        for node_id in NODES:
            self.brokers[node_id] = self.run(register(self.catalog, node_id))

    # -- what the model says --------------------------------------------------------------------------------------
    def stream(self, number: int) -> tuple[int, Stream]:
        stream_id = sorted(self.streams)[number]
        return stream_id, self.streams[stream_id]

    def retire(self) -> None:
        for held in self.objects.values():
            if held.state == "committed" and not any(self.is_live(r) for r in held.ranges):
                held.state = "retired"

    def is_live(self, r: StreamRange) -> bool:
        stream = self.streams[r.stream_id]
        return not stream.deleted and r.end_offset > stream.start

    # -- what happens ---------------------------------------------------------------------------------------------
    @rule(node=st.sampled_from(NODES), numbers=st.lists(STREAMS, min_size=1, max_size=4, unique=True))
    def open_some(self, node: int, numbers: list[int]) -> None:
        broker = self.brokers[node]
        chosen = [self.stream(number) for number in numbers]
        error: type[Exception] | None = None
        for _, stream in chosen:
            if stream.deleted:
                error = UnknownStream
            elif stream.owner is not None and stream.owner.epoch != broker.epoch:
                error = StreamEpochFenced
            if error is not None:
                break
        opened = self.expect(error, self.catalog.open_streams(node, broker.epoch, [i for i, _ in chosen]))
        for info, (_, stream) in zip(opened or (), chosen, strict=bool(opened)):
            stream.epoch += 1
            stream.owner = broker
            stream.end = max(stream.end, stream.start)
            assert (info.epoch, info.start_offset, info.end_offset) == (stream.epoch, stream.start, stream.end)

    @rule(node=st.sampled_from(NODES), number=STREAMS, stale=st.booleans())
    def close_one(self, node: int, number: int, stale: bool) -> None:
        stream_id, stream = self.stream(number)
        epoch = stream.epoch - stale
        mine = stream.owner is None or stream.owner.epoch == self.brokers[node].epoch
        error = None if stream.deleted or (mine and not stale) else StreamEpochFenced
        self.expect(error, self.catalog.close_streams(node, self.brokers[node].epoch, {stream_id: epoch}))
        if error is None:
            stream.owner = None

    @rule(node=st.sampled_from(NODES), number=STREAMS, by=st.integers(-5, 40), stale=st.booleans())
    def trim(self, node: int, number: int, by: int, stale: bool) -> None:
        stream_id, stream = self.stream(number)
        start = max(0, stream.start + by)
        mine = stream.owner is not None and stream.owner.epoch == self.brokers[node].epoch
        error = None if stream.deleted or (mine and not stale) else StreamEpochFenced
        starts = {stream_id: (stream.epoch - stale, start)}
        self.expect(error, self.catalog.trim_streams(node, self.brokers[node].epoch, starts))
        if error is None:
            stream.start = max(stream.start, start)
            self.retire()

    @rule(node=st.sampled_from(NODES))
    def prepare(self, node: int) -> None:
        broker = self.brokers[node]
        [(object_id, _)] = self.run(self.catalog.prepare_objects(node, broker.epoch, 1))
        assert object_id not in self.objects
        self.objects[object_id] = Object(broker)

    @precondition(lambda self: self.objects)
    @rule(
        node=st.sampled_from(NODES),
        pick=st.integers(0, 3),
        parts=st.dictionaries(
            STREAMS, st.tuples(st.sampled_from([0, 0, 0, 0, 0, 1, -1]), st.integers(1, 20)), max_size=4
        ),
        stale=st.sampled_from([False, False, False, True]),
    )
    def commit(self, node: int, pick: int, parts: dict[int, tuple[int, int]], stale: bool) -> None:
        broker = self.brokers[node]
        object_id = sorted(self.objects, reverse=True)[pick % len(self.objects)]
        held = self.objects[object_id]
        ranges, epochs = [], {}
        for number, (shift, count) in parts.items():
            stream_id, stream = self.stream(number)
            start = max(0, stream.end + shift)
            ranges.append(span(stream_id, start, start + count))
            epochs[stream_id] = stream.epoch - stale
        errors = self.errors_of_commit(broker, held, ranges, epochs)
        call = self.catalog.commit_objects(node, broker.epoch, [NewObject(object_id, 1, tuple(ranges))], epochs)
        if errors:
            with pytest.raises(tuple(errors)):
                self.run(call)
            return
        self.run(call)
        if not held.was_committed:
            held.state, held.was_committed, held.ranges = "committed", True, ranges
            for r in ranges:
                if not self.streams[r.stream_id].deleted:
                    self.streams[r.stream_id].end = r.end_offset
            self.retire()

    def errors_of_commit(
        self, broker: BrokerInfo, held: Object, ranges: list[StreamRange], epochs: dict[int, int]
    ) -> set[type[Exception]]:
        if held.state == "forgotten" or (held.state == "retired" and not held.was_committed):
            return {ObjectGone}
        if held.broker.epoch != broker.epoch:
            return {CatalogError}
        errors: set[type[Exception]] = set()
        if held.was_committed:
            return errors
        fenced_epochs = {fenced.epoch for fenced in self.fenced}
        for r in ranges:
            stream = self.streams[r.stream_id]
            if stream.deleted:
                continue
            writers = fenced_epochs | {broker.epoch}
            if stream.owner is None or stream.owner.epoch not in writers or stream.epoch != epochs[r.stream_id]:
                errors.add(StreamEpochFenced)
            if not stream.end <= r.start_offset <= max(stream.end, stream.start):
                errors.add(OffsetsNotContinuous)
        return errors

    @rule(
        node=st.sampled_from(NODES),
        numbers=st.sets(STREAMS, min_size=1),
        picks=st.sets(st.integers(0, 9), min_size=1),
        stale=st.sampled_from([False, False, True]),
    )
    def compact(self, node: int, numbers: set[int], picks: set[int], stale: bool) -> None:
        """Some ranges of some streams, wherever they are, move into one new object; or are not there any more."""
        broker = self.brokers[node]
        stream_ids = {self.stream(number)[0] for number in numbers}
        held = [
            (object_id, r)
            for object_id, each in sorted(self.objects.items())
            if each.state == "committed"
            for r in each.ranges
            if r.stream_id in stream_ids
        ]
        chosen = [pair for i, pair in enumerate(held) if i in picks]
        if not chosen:
            return
        moved = sorted(r for _, r in chosen if self.is_live(r))
        joined: list[StreamRange] = []
        for r in moved:
            if joined and (joined[-1].stream_id, joined[-1].end_offset) == (r.stream_id, r.start_offset):
                joined[-1] = span(r.stream_id, joined[-1].start_offset, r.end_offset)
            else:
                joined.append(r)
        [(object_id, _)] = self.run(self.catalog.prepare_objects(node, broker.epoch, 1))
        removed: dict[int, list[StreamRange]] = {}
        for source, r in chosen:
            removed.setdefault(source, []).append(
                r if not stale else span(r.stream_id, r.start_offset, r.end_offset + 1)
            )
        added = [NewObject(object_id, 1, tuple(joined))]
        call = self.catalog.replace_objects(node, broker.epoch, removed, added)
        self.objects[object_id] = Object(broker)
        if stale:
            with pytest.raises((ObjectsReplaced, OffsetsNotContinuous)):
                self.run(call)
            return
        self.run(call)
        self.run(self.catalog.replace_objects(node, broker.epoch, removed, added))
        for source, r in chosen:
            self.objects[source].ranges.remove(r)
        self.objects[object_id] = Object(broker, "committed", True, joined)
        self.retire()

    @rule(node=st.sampled_from(NODES))
    def die_and_come_back(self, node: int) -> None:
        old = self.brokers[node]
        self.run(self.catalog.fence_broker(node, old.epoch))
        self.expect(BrokerFenced, self.catalog.renew_lease(node, old.epoch, HOUR_MS))
        self.dead.add(old.epoch)
        if any(s.owner is not None and s.owner.epoch == old.epoch for s in self.streams.values()):
            self.fenced.append(old)
        self.brokers[node] = self.run(register(self.catalog, node))

    @precondition(lambda self: self.fenced)
    @rule(node=st.sampled_from(NODES), pick=st.integers(0, 3))
    def recover(self, node: int, pick: int) -> None:
        dead = self.fenced.pop(pick % len(self.fenced))
        self.run(self.catalog.recovered(dead.node_id, dead.epoch, node, self.brokers[node].epoch))
        for stream in self.streams.values():
            if stream.owner is not None and stream.owner.epoch == dead.epoch:
                stream.owner = None

    @precondition(lambda self: len(self.topics) > 1)
    @rule(pick=st.integers(0, TOPICS))
    def delete_topic(self, pick: int) -> None:
        topic_id, stream_ids = self.topics.pop(pick % len(self.topics))
        self.run(self.catalog.delete_topic(topic_id))
        for stream_id in stream_ids:
            self.streams[stream_id].deleted = True
            self.streams[stream_id].owner = None
        self.retire()

    @rule(forget=st.booleans())
    def clean_up(self, forget: bool) -> None:
        for held in self.objects.values():
            if held.state == "prepared":
                held.state = "retired"
        listed = [object_id for object_id, _ in self.run(self.catalog.abandoned_objects(0, 1000))]
        assert listed == sorted(i for i, held in self.objects.items() if held.state == "retired")
        if forget:
            self.run(self.catalog.forget_objects(listed))
            for object_id in listed:
                self.objects[object_id].state = "forgotten"

    # -- what must agree -------------------------------------------------------------------------------------------
    @invariant()
    def streams_agree(self) -> None:
        present = {i: s for i, s in sorted(self.streams.items()) if not s.deleted}
        found = self.run(self.catalog.stream_infos(sorted(self.streams)))
        assert [(s.stream_id, s.epoch, s.open, s.start_offset, s.end_offset) for s in found] == [
            (i, s.epoch, s.owner is not None, s.start, s.end) for i, s in present.items()
        ]

    @invariant()
    def live_objects_agree(self) -> None:
        expected = {}
        for object_id, held in sorted(self.objects.items()):
            live = [r for r in held.ranges if self.is_live(r)]
            if held.state == "committed" and live:
                expected[object_id] = tuple(sorted(live))
        found = self.run(self.catalog.live_objects(sorted(self.streams)))
        assert {o.object_id: o.ranges for o in found} == expected
        listed = self.run(self.catalog.object_ranges(sorted(self.objects)))
        assert {o.object_id: o.ranges for o in listed if o.ranges} == expected
        committed = {i: {r.stream_id for r in o.ranges} for i, o in self.objects.items() if o.state == "committed"}
        sets = self.run(self.catalog.set_objects())
        assert [(s.object_id, s.first_stream_id, s.last_stream_id) for s in sets] == [
            (i, min(streams), max(streams)) for i, streams in sorted(committed.items()) if len(streams) > 1
        ]

    @invariant()
    def what_waits_for_recovery_agrees(self) -> None:
        waiting = [broker.epoch for broker in self.run(self.catalog.unrecovered())]
        assert sorted(waiting) == sorted(broker.epoch for broker in self.fenced)


def model_settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_sqlite_behaves_as_the_model() -> None:
    run_state_machine_as_test(CatalogModel, settings=model_settings(8))  # type: ignore[no-untyped-call]


@pytest.mark.integration
def test_postgresql_behaves_as_the_model(postgres_server: PostgresServer) -> None:
    class OnPostgres(CatalogModel):
        url = staticmethod(postgres_server.new_database)

    run_state_machine_as_test(OnPostgres, settings=model_settings(6))  # type: ignore[no-untyped-call]
