"""`Reassignments`: replicas that an administrator assigns, and leaders that one asks for (KIP-455, KIP-460).

There is no data to copy. What an assignment says is who is to lead (the first replica of it that is alive, unless the
leader is among them) and what clients are shown (docs/decisions/0003). So a reassignment goes on only while the leader
hands over, and one that keeps the leader is done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog

from broker.cluster.errors import AdminError, as_admin_error
from broker.cluster.image import MetadataImage
from broker.cluster.leadership import replicas_before
from protocol.errors import ErrorCode
from s3stream.catalog.api import BrokerUnavailable, Catalog, CatalogError, PartitionInfo, TopicInfo

log = structlog.get_logger()

V = TypeVar("V")
Wish = tuple[str, int]
"""Topic and partition index."""


@dataclass(frozen=True, slots=True)
class Ongoing:
    """A reassignment that waits for its leader, as Kafka shows one: `replicas` are the new ones, then those to go."""

    topic: str
    index: int
    replicas: Sequence[int]
    adding: Sequence[int]
    removing: Sequence[int]


class Reassignments:
    def __init__(self, catalog: Catalog, image: MetadataImage) -> None:
        self._catalog = catalog
        self._image = image

    # -- replicas ---------------------------------------------------------------------------------------------------
    async def assign(
        self, wishes: Mapping[Wish, Sequence[int] | None], *, may_change_factor: bool = True
    ) -> dict[Wish, AdminError | None]:
        """Assign replicas, or with None take back the reassignment that goes on. What came of each; the valid ones are
        one transaction."""
        results: dict[Wish, AdminError | None] = {}
        valid: dict[Wish, Sequence[int] | None] = {}
        for wish, replicas in wishes.items():
            results[wish] = self._problem(wish, replicas, may_change_factor)
            if results[wish] is None:
                valid[wish] = replicas
        if valid:
            refusal = None
            try:
                await self._catalog.set_replicas(self._by_topic_id(valid))
                await self._image.refresh()
            except BrokerUnavailable as error:
                refusal = AdminError(ErrorCode.BROKER_NOT_AVAILABLE, str(error))
            except CatalogError as error:
                refusal = as_admin_error(error)
            results.update(dict.fromkeys(valid, refusal))
            log.info("replicas assigned", partitions=len(valid), error=refusal and str(refusal))
        return results

    def _problem(self, wish: Wish, replicas: Sequence[int] | None, may_change_factor: bool) -> AdminError | None:
        name, index = wish
        topic = self._image.topic(name)
        if topic is None:
            return AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find a topic named {name}.")
        if not 0 <= index < len(topic.partitions):
            return AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find partition {name}:{index}.")
        partition = topic.partitions[index]
        if replicas is None:
            return AdminError(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS) if partition.former_replicas is None else None
        problem = assignment_problem(self._image, replicas)
        if problem is not None:
            return AdminError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment {problem}")
        if partition.leader not in replicas and not any(each.node_id in replicas for each in self._image.brokers()):
            return AdminError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "The manual partition assignment includes no broker that is alive.",
            )
        present = len(_before(partition)) or topic.replication_factor
        if not may_change_factor and len(replicas) != present:
            return AdminError(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"The replication factor is changed from {present} to {len(replicas)}",
            )
        return None

    def ongoing(self, wishes: Sequence[Wish] | None) -> list[Ongoing]:
        """Those of these partitions, or of all."""
        chosen = None if wishes is None else set(wishes)
        alive = {each.node_id: each.rack for each in self._image.brokers()}
        found = []
        for topic in self._image.topics():
            for partition in topic.partitions:
                if partition.former_replicas is None:
                    continue
                if chosen is None or (topic.name, partition.index) in chosen:
                    found.append(_ongoing(topic, partition, alive))
        return found

    # -- leaders ----------------------------------------------------------------------------------------------------
    async def elect_preferred(self, wishes: Sequence[Wish] | None, timeout_s: float) -> dict[Wish, AdminError | None]:
        """Have the first assigned replica of each of these partitions (or of all) lead it; returns when they do."""
        results: dict[Wish, AdminError | None] = {}
        moves: dict[Wish, int | None] = {}
        usable = {each.node_id for each in self._image.receivers()}
        for wish in self._each(wishes):
            partition = self._partition(wish, results)
            if partition is None:
                continue
            preferred = _before(partition)[0] if _before(partition) else partition.leader
            if preferred == partition.leader:
                results[wish] = _NOT_NEEDED
            elif preferred not in usable:
                results[wish] = AdminError(
                    ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, "The preferred leader was not available."
                )
            else:
                moves[wish] = preferred
        if moves:
            results.update(await self._move(moves, timeout_s))
        return results

    def elect_unclean(self, wishes: Sequence[Wish] | None) -> dict[Wish, AdminError | None]:
        """Nobody may lead without what was acknowledged: whatever has no leader waits for a log to be recovered."""
        results: dict[Wish, AdminError | None] = {}
        alive = {each.node_id for each in self._image.brokers()}
        for wish in self._each(wishes):
            partition = self._partition(wish, results)
            if partition is None:
                continue
            if partition.leader in alive:
                results[wish] = _NOT_NEEDED
            else:
                message = "Eligible topic partition leaders are not available."
                results[wish] = AdminError(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, message)
        return results

    async def _move(self, moves: Mapping[Wish, int | None], timeout_s: float) -> dict[Wish, AdminError | None]:
        try:
            await self._catalog.set_targets(self._by_topic_id(moves))
            await self._image.refresh()
        except BrokerUnavailable:
            refusal = AdminError(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, "The preferred leader was not available.")
            return dict.fromkeys(moves, refusal)
        except CatalogError as error:
            return dict.fromkeys(moves, as_admin_error(error))
        return await self._wait_led(moves, timeout_s)

    async def _wait_led(self, moves: Mapping[Wish, int | None], timeout_s: float) -> dict[Wish, AdminError | None]:
        changed = asyncio.Event()
        unsubscribe = self._image.subscribe(lambda _: changed.set())
        try:
            async with asyncio.timeout(timeout_s):
                while any(self._is_under_way(wish, target) for wish, target in moves.items()):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            pass
        finally:
            unsubscribe()
        late = AdminError(ErrorCode.REQUEST_TIMED_OUT, "The leader did not hand over in time.")
        return {wish: None if self._leader(wish) == target else late for wish, target in moves.items()}

    def _is_under_way(self, wish: Wish, target: int | None) -> bool:
        topic = self._image.topic(wish[0])
        return topic is not None and topic.partitions[wish[1]].target == target

    def _leader(self, wish: Wish) -> int | None:
        topic = self._image.topic(wish[0])
        return None if topic is None else topic.partitions[wish[1]].leader

    # -- partitions -------------------------------------------------------------------------------------------------
    def _each(self, wishes: Sequence[Wish] | None) -> list[Wish]:
        if wishes is not None:
            return list(wishes)
        return [(topic.name, each.index) for topic in self._image.topics() for each in topic.partitions]

    def _partition(self, wish: Wish, results: dict[Wish, AdminError | None]) -> PartitionInfo | None:
        name, index = wish
        topic = self._image.topic(name)
        if topic is not None and 0 <= index < len(topic.partitions):
            return topic.partitions[index]
        what = f"topic as {name}" if topic is None else f"partition as {name}-{index}"
        results[wish] = AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such {what}")
        return None

    def _by_topic_id(self, wishes: Mapping[Wish, V]) -> dict[UUID, dict[int, V]]:
        found: dict[UUID, dict[int, V]] = {}
        for (name, index), value in wishes.items():
            topic = self._image.topic(name)
            if topic is not None:
                found.setdefault(topic.topic_id, {})[index] = value
        return found


_NOT_NEEDED = AdminError(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")


def assignment_problem(image: MetadataImage, replicas: Sequence[int]) -> str | None:
    """What is wrong with a list of replicas, in Kafka's words: the end of a sentence."""
    if not replicas:
        return "includes an empty replica list."
    for node_id in replicas:
        if image.broker(node_id) is None:
            return f"includes broker {node_id}, but no such broker is registered."
        if list(replicas).count(node_id) > 1:
            return f"includes the broker {node_id} more than once."
    return None


def _before(partition: PartitionInfo) -> tuple[int, ...]:
    """As assigned, without a reassignment that goes on."""
    return partition.replicas if partition.former_replicas is None else partition.former_replicas


def _ongoing(topic: TopicInfo, partition: PartitionInfo, alive: Mapping[int, str | None]) -> Ongoing:
    before = replicas_before(partition, alive, topic.replication_factor)
    after = partition.replicas
    removing = [each for each in before if each not in after]
    return Ongoing(
        topic.name, partition.index, [*after, *removing], [each for each in after if each not in before], removing
    )
