"""Markers reach the leaders of all partitions of a decided transaction, whatever it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.marker_sender import IN_FLIGHT_MAX, MarkerChannel, MarkerSender
from broker.peers import PeerUnavailable
from protocol.errors import ErrorCode
from protocol.messages.write_txn_markers import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from tests.broker.handlers_data.virtual_loop import run

T0, T1, U0 = ("t", 0), ("t", 1), ("u", 0)
LEADERS = {T0: 1, T1: 2, U0: 2}
COORDINATOR_EPOCH = 9

Code = Callable[[int, tuple[str, int]], int]


class World:
    """Brokers 1 and 2. `code` says how a broker answers for a partition; requests are kept as (node, partitions)."""

    def __init__(self) -> None:
        self.leaders = dict(LEADERS)
        self.alive = {1, 2}
        self.code: Code = lambda node, partition: ErrorCode.NONE
        self.unavailable = 0
        """So many calls fail."""
        self.hold: asyncio.Event | None = None
        self.requests: list[tuple[int, list[tuple[str, int]]]] = []
        self.markers: list[Any] = []
        self.done: list[MarkerJob] = []
        self.sender = MarkerSender(self, self)  # type: ignore[arg-type]
        self.channel = MarkerChannel(self.sender, COORDINATOR_EPOCH, self.done.append)
        self._tasks: set[asyncio.Future[Any]] = set()

    # -- the image
    def topic(self, name: str) -> Any:
        leaders = {index: leader for (topic, index), leader in self.leaders.items() if topic == name}
        if not leaders:
            return None
        return SimpleNamespace(partitions=[SimpleNamespace(leader=leaders[index]) for index in sorted(leaders)])

    def broker(self, node_id: int) -> Any:
        return SimpleNamespace(alive=node_id in self.alive) if node_id > 0 else None

    # -- the brokers
    def call(self, node_id: int, api_version: int, request: Any) -> asyncio.Future[Any]:
        assert api_version == 2
        task = asyncio.ensure_future(self._answer(node_id, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, node_id: int, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
        self.markers += request.markers
        self.requests.append(
            (
                node_id,
                [
                    (topic.name, index)
                    for each in request.markers
                    for topic in each.topics
                    for index in topic.partition_indexes
                ],
            )
        )
        if self.unavailable:
            self.unavailable -= 1
            raise PeerUnavailable("gone")
        if self.hold is not None:
            await self.hold.wait()
        return WriteTxnMarkersResponse(
            markers=[
                WritableTxnMarkerResult(
                    producer_id=marker.producer_id,
                    topics=[
                        WritableTxnMarkerTopicResult(
                            name=topic.name,
                            partitions=[
                                WritableTxnMarkerPartitionResult(
                                    partition_index=index, error_code=self.code(node_id, (topic.name, index))
                                )
                                for index in topic.partition_indexes
                            ],
                        )
                        for topic in marker.topics
                    ],
                )
                for marker in request.markers
            ]
        )

    def send(self, *partitions: tuple[str, int], producer_id: int = 5) -> MarkerJob:
        job = MarkerJob(f"x{producer_id}", producer_id, 3, True, 2, frozenset(partitions or LEADERS))
        self.channel.send(job)
        return job


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)


def in_world(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        world = World()
        await test(world)
        world.sender.close()

    run(main())


def partitions_of(requests: Iterable[tuple[int, list[tuple[str, int]]]]) -> dict[int, list[tuple[str, int]]]:
    found: dict[int, list[tuple[str, int]]] = {}
    for node_id, partitions in requests:
        found.setdefault(node_id, []).extend(partitions)
    return {node_id: sorted(partitions) for node_id, partitions in found.items()}


def test_each_leader_gets_one_request_for_all_that_is_due() -> None:
    async def test(world: World) -> None:
        jobs = [world.send(), world.send(T1, producer_id=6)]
        await until(lambda: len(world.done) == 2)
        assert sorted(world.done, key=lambda job: job.producer_id) == jobs
        assert len(world.requests) == 2
        assert partitions_of(world.requests) == {1: [T0], 2: [T1, T1, U0]}
        marker = next(each for each in world.markers if each.producer_id == 5)
        assert (marker.producer_epoch, marker.transaction_result, marker.transaction_version) == (3, True, 2)
        assert marker.coordinator_epoch == COORDINATOR_EPOCH

    in_world(test)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.TRANSACTION_COORDINATOR_FENCED,
        ErrorCode.UNKNOWN_SERVER_ERROR,
    ],
)
def test_what_was_refused_is_sent_again_and_nothing_else(code: ErrorCode) -> None:
    async def test(world: World) -> None:
        world.code = lambda node, partition: code if partition == U0 and len(world.requests) < 6 else ErrorCode.NONE
        world.send()
        await until(lambda: world.done)
        assert partitions_of(world.requests) == {1: [T0], 2: [T1, U0, U0, U0, U0, U0]}

    in_world(test)


@pytest.mark.parametrize("code", [ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT])
def test_a_partition_that_takes_no_marker_any_more_is_done(code: ErrorCode) -> None:
    async def test(world: World) -> None:
        world.code = lambda node, partition: code
        world.send(T0)
        await until(lambda: world.done)
        assert len(world.requests) == 1

    in_world(test)


def test_a_broker_that_does_not_answer_is_asked_again() -> None:
    async def test(world: World) -> None:
        world.unavailable = 3
        world.send(T0)
        await until(lambda: world.done)
        assert world.requests == [(1, [T0])] * 4

    in_world(test)


def test_a_partition_that_moved_gets_its_marker_from_its_new_leader() -> None:
    async def test(world: World) -> None:
        world.code = lambda node, partition: ErrorCode.NOT_LEADER_OR_FOLLOWER if node == 1 else ErrorCode.NONE
        world.send(T0)
        await until(lambda: world.requests)
        world.leaders[T0] = 2
        await until(lambda: world.done)
        assert world.requests[-1] == (2, [T0])

    in_world(test)


@pytest.mark.parametrize("leader", [-1, 2])
def test_a_partition_without_a_live_leader_waits_for_one(leader: int) -> None:
    async def test(world: World) -> None:
        world.alive = {1}
        world.leaders[T1] = leader
        world.send(T0, T1)
        await asyncio.sleep(10)
        assert world.requests == [(1, [T0])]
        world.leaders[T1] = 1
        await until(lambda: world.done)
        assert world.requests == [(1, [T0]), (1, [T1])]

    in_world(test)


def test_a_deleted_topic_counts_as_done() -> None:
    async def test(world: World) -> None:
        del world.leaders[U0]
        world.send(U0)
        assert len(world.done) == 1
        world.code = lambda node, partition: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        world.send(T0, T1)
        await until(lambda: world.requests)
        del world.leaders[T0], world.leaders[T1]
        await until(lambda: len(world.done) == 2)

    in_world(test)


def test_requests_to_one_broker_are_bounded_and_what_waits_leaves_together() -> None:
    async def test(world: World) -> None:
        world.hold = asyncio.Event()
        for producer_id in range(20):
            world.send(T0, producer_id=producer_id)
            await asyncio.sleep(0.01)
        assert len(world.requests) == IN_FLIGHT_MAX
        world.hold.set()
        await until(lambda: len(world.done) == 20)
        assert len(world.requests) == IN_FLIGHT_MAX + 1

    in_world(test)


def test_a_channel_that_was_closed_sends_nothing_and_ends_nothing() -> None:
    async def test(world: World) -> None:
        world.code = lambda node, partition: ErrorCode.NOT_LEADER_OR_FOLLOWER
        world.send(T0)
        await until(lambda: world.requests)
        world.channel.close()
        sent = len(world.requests)
        world.code = lambda node, partition: ErrorCode.NONE
        world.send(T1)
        await asyncio.sleep(30)
        assert len(world.requests) == sent
        assert not world.done

    in_world(test)
