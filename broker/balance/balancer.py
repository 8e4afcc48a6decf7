"""`Balancer`: looks at the cluster, plans, and says where partitions go; their leaders carry it out (`target`).

Every broker has one; that at the alive broker with the smallest id acts. Two that act at once, because they disagree
about who is alive, only overwrite each other's plans: a move is a wish in the catalog, and its leader carries out one
at a time.

It looks at once when brokers come, go, or are to be drained, and when moves have been made; else every few seconds.
Moves for the sake of load are made when a look after a while says the same, so that a burst moves nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol
from uuid import UUID

import structlog

from broker.background import BackgroundTask
from broker.balance.history import MoveHistory
from broker.balance.model import IDLE, Bounds, BrokerState, Goal, Key, Load, Move, PartitionState
from broker.balance.newcomers import Newcomers
from broker.balance.planner import plan
from broker.cluster.image import MetadataImage
from broker.config.broker_config import BrokerConfig
from protocol.messages.describe_load import DescribeLoadRequest, DescribeLoadResponse
from protocol.types import Message
from s3stream.catalog.api import CatalogError, Changes, PartitionInfo

log = structlog.get_logger()

LOOK_INTERVAL_S = 5.0
PAUSE_S = 0.2
"""Between two looks, whatever happens."""
PLANNED_AHEAD = 20
"""A plan has so many times the moves that may be under way at a time: with thousands of partitions it is long in the
making."""
PLAN_LASTS_S = 10.0
"""Then, or when brokers come, go or begin to drain, another one is made."""
_EFFORT_MAX = 0.1
"""Of the time may be spent on planning."""
SILENT_PAUSE_S = 0.5
"""Before the next look while a broker does not answer, as one that is starting."""
LOAD_PATIENCE_S = 12.0
"""How long brokers have to be uneven before partitions move for it."""
ANSWER_TIMEOUT_S = 2.0
_PARTITIONS_PER_TURN = 1000


class Asker(Protocol):
    """What is needed of `broker.peers.Peers`."""

    def call(self, node_id: int, api_version: int, request: Message) -> asyncio.Future[DescribeLoadResponse]: ...


class Targets(Protocol):
    """What is needed of the catalog."""

    async def set_targets(self, targets: Mapping[UUID, Mapping[int, int | None]]) -> int: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """The cluster as one look found it. `loads`: node id -> what an alive broker has to do, if it said."""

    brokers: Sequence[BrokerState]
    partitions: Sequence[PartitionState]
    loads: Mapping[int, DescribeLoadResponse]


class Balancer:
    """Background work between `start` and `stop`; `clock` in seconds."""

    def __init__(
        self,
        image: MetadataImage,
        catalog: Targets,
        peers: Asker,
        config: BrokerConfig,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._image = image
        self._catalog = catalog
        self._peers = peers
        self._config = config
        self._clock = clock or asyncio.get_running_loop().time
        self._newcomers = Newcomers()
        self._history = MoveHistory(image.topics())
        self._woken = asyncio.Event()
        self._uneven_since: float | None = None
        self._effort_s = 0.0
        self._planned: deque[Move] = deque()
        self._planned_for: tuple[object, float] = (None, 0.0)
        """What the plan was made for (`_standing`), and when."""
        self.asked_for: dict[Key, Move] = {}
        """Moves that this broker has asked for and that are not made yet."""
        self._task = BackgroundTask(self._run, "balancer")
        self._unsubscribe = image.subscribe(self._changed)

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        self._unsubscribe()
        await self._task.stop()

    @property
    def enabled(self) -> bool:
        return self._config.auto_leader_rebalance_enable

    @property
    def acts(self) -> bool:
        """It is this broker that balances."""
        return self._image.controller_id == self._image.node_id

    # -- looking ------------------------------------------------------------------------------------------------------
    async def look(self) -> Picture:
        loads = await self.ask_for_loads()
        now_s = self._clock()
        draining = self._image.draining()
        receivers = {each.node_id for each in self._image.receivers()}
        brokers = []
        for each in self._image.brokers():
            answer = loads.get(each.node_id)
            load = None
            if answer is not None:
                load = Load(answer.bytes_in, answer.bytes_out, answer.requests, answer.cpu)
            trusted = load is not None and self._newcomers.is_trusted(each.node_id, now_s)
            accepts = trusted and each.node_id in receivers
            brokers.append(BrokerState(each.node_id, each.node_id in draining, accepts, load))
        return Picture(brokers, await self._partitions(loads, now_s), loads)

    async def plan(self, picture: Picture, ahead: int = 1) -> list[Move]:
        """What should be moved next, up to `ahead` times what may be under way. In a thread, because of many partitions
        it takes a while."""
        bounds = Bounds(
            partitions_percentage=self._config.tailrace_balance_partitions_percentage,
            load_percentage=self._config.tailrace_balance_load_percentage,
            moves_max=self._config.tailrace_balance_moves_max * ahead,
            only_drain=not self.enabled,
        )
        started = self._clock()
        moves = await asyncio.to_thread(plan, picture.brokers, picture.partitions, bounds)
        self._effort_s = self._clock() - started
        return moves

    async def ask_for_loads(self, include_partitions: bool = True) -> dict[int, DescribeLoadResponse]:
        """What the alive brokers say; those that do not answer in time are left out."""
        node_ids = [each.node_id for each in self._image.brokers()]
        answers = [
            self._peers.call(each, 0, DescribeLoadRequest(include_partitions=include_partitions)) for each in node_ids
        ]
        if answers:
            await asyncio.wait(answers, timeout=ANSWER_TIMEOUT_S)
        found = {}
        for node_id, answer in zip(node_ids, answers, strict=True):
            if not answer.done():
                answer.cancel()
            elif not answer.cancelled() and answer.exception() is None and not answer.result().error_code:
                found[node_id] = answer.result()
        return found

    async def _partitions(self, loads: Mapping[int, DescribeLoadResponse], now_s: float) -> list[PartitionState]:
        measured = {
            (topic.topic_id, each.partition_index, node_id): Load(each.bytes_in, each.bytes_out, each.requests)
            for node_id, answer in loads.items()
            for topic in answer.topics
            for each in topic.partitions
        }
        moved = self._history.moved_since(now_s - self._config.leader_imbalance_check_interval_seconds)
        states: list[PartitionState] = []
        for topic in list(self._image.topics()):
            topic_id = topic.topic_id
            for info in topic.partitions:
                load = measured.get((topic_id.bytes, info.index, info.leader), IDLE)
                settled = (topic_id, info.index) not in moved
                states.append(
                    PartitionState(topic_id, info.index, info.leader, info.target, info.replicas, settled, load)
                )
                if len(states) % _PARTITIONS_PER_TURN == 0:
                    await asyncio.sleep(0)
        return states

    # -- acting -------------------------------------------------------------------------------------------------------
    def _changed(self, changes: Changes) -> None:
        self._history.follow(changes.topics, self._clock())
        self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            self._effort_s = 0.0
            next_look_s = LOOK_INTERVAL_S
            try:
                next_look_s = await self.act()
            except CatalogError as error:
                log.debug("partitions are not balanced: catalog unreachable", error=str(error))
            except Exception:
                log.exception("balancing has a defect")
            await asyncio.sleep(max(PAUSE_S, self._effort_s / _EFFORT_MAX))
            with suppress(TimeoutError):
                async with asyncio.timeout(next_look_s):
                    await self._woken.wait()

    async def act(self) -> float:
        """One look, and the moves that are due; returns how long nobody needs to look again, if nothing changes."""
        now_s = self._clock()
        self._newcomers.see({each.node_id: each.epoch for each in self._image.brokers()}, now_s)
        self._forget_made_moves()
        if not self.acts or len(self._image.brokers()) < 2:
            self._uneven_since = None
            return LOOK_INTERVAL_S
        next_look_s = LOOK_INTERVAL_S
        if not self._goes_on_as_planned(now_s):
            self._planned_for = self._standing(), now_s
            picture = await self.look()
            due = self._due(await self.plan(picture, PLANNED_AHEAD), now_s)
            # whatever changes of a topic, every broker reads all of it anew
            self._planned = deque(sorted(due, key=attrgetter("topic_id")))
            if len(picture.loads) < len(picture.brokers):
                next_look_s = SILENT_PAUSE_S
        if moves := self._next_planned():
            await self._ask_for(moves)
        return next_look_s

    def _goes_on_as_planned(self, now_s: float) -> bool:
        """There are moves of the last plan left, and the brokers are still those that it was made for."""
        standing, planned_at = self._planned_for
        return bool(self._planned) and now_s - planned_at < PLAN_LASTS_S and standing == self._standing()

    def _standing(self) -> object:
        """What of the brokers makes another plan necessary when it changes."""
        alive = {(each.node_id, each.epoch) for each in self._image.brokers()}
        return alive, {each.node_id for each in self._image.receivers()}, self._image.draining(), self.enabled

    def _next_planned(self) -> list[Move]:
        """Of the plan, as many as may be under way beside those that are."""
        moving = sum(part.target is not None for topic in self._image.topics() for part in topic.partitions)
        moves: list[Move] = []
        while self._planned and moving + len(moves) < self._config.tailrace_balance_moves_max:
            if self._still_stands(move := self._planned.popleft()):
                moves.append(move)
        return moves

    def _due(self, moves: list[Move], now_s: float) -> list[Move]:
        if not moves or moves[0].goal is not Goal.LOAD:
            self._uneven_since = None
            return moves
        if self._uneven_since is None:
            self._uneven_since = now_s
        return moves if now_s - self._uneven_since >= LOAD_PATIENCE_S else []

    def _still_stands(self, move: Move) -> bool:
        """Nobody has moved it, asked for another move, or assigned it to others, since the plan was made."""
        info = self._partition(move.key)
        if info is None or info.leader != move.source or info.target is not None:
            return False
        return not info.replicas or move.target in info.replicas or move.goal is Goal.DRAIN

    async def _ask_for(self, moves: Sequence[Move]) -> None:
        targets: defaultdict[UUID, dict[int, int | None]] = defaultdict(dict)
        for move in moves:
            targets[move.topic_id][move.partition_index] = move.target
        self.asked_for.update((move.key, move) for move in moves)
        self._uneven_since = None
        await self._catalog.set_targets(targets)
        log.info("partitions are moved", count=len(moves), why=moves[0].reason, goal=moves[0].goal.name.lower())
        await self._image.refresh()

    def _forget_made_moves(self) -> None:
        for key, move in list(self.asked_for.items()):
            info = self._partition(key)
            if info is None or info.target != move.target:
                del self.asked_for[key]

    def _partition(self, key: Key) -> PartitionInfo | None:
        topic_id, index = key
        topic = self._image.topic_by_id(topic_id.bytes)
        return topic.partitions[index] if topic is not None else None
