"""`TopicAdmin`: creates, extends and deletes topics, on request or because a client asked for one (auto-creation).

Each operation is a catalog transaction, then a refresh of the image, then the opening or closing of the partitions led
here, in this order: when the answer leaves, the topic can be used (or is gone) at this broker. Any broker may serve any
operation; two that collide are told apart by the catalog.

Invariants
----------
* At most one auto-creation per name is under way here; all who ask wait for that one. Its task belongs to TopicAdmin
  and outlives the connection that caused it.
* What is refused has changed nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog

from broker.cluster import names
from broker.cluster.config_admin import ConfigAdmin
from broker.cluster.errors import AdminError
from broker.cluster.image import MetadataImage
from broker.cluster.placement import count_leaders, place_leaders
from broker.cluster.reassignment import Reassignments, assignment_problem
from broker.config.broker_config import BrokerConfig
from broker.config.definition import ConfigError
from broker.config.topic_config import validate_topic_configs
from protocol.errors import ErrorCode
from s3stream.catalog.api import Catalog, NewTopic, PartitionInfo, TopicExists, TopicInfo, UnknownTopic

log = structlog.get_logger()

PARTITIONS_PER_TOPIC_MAX = 10_000
"""The most partitions that one request may create in a topic; Kafka's own limit per request."""

BROKER_DEFAULT = -1
"""Partition count or replication factor that stands for the broker's default."""

_NOT_CREATED = UUID(int=0)

Assignment = Sequence[int]
"""Node ids of a partition's replicas; the first one is to lead."""


class TopicHost(Protocol):
    """What is needed of `broker.partitions.Partitions`."""

    async def open_topic(self, topic: TopicInfo) -> None:
        """Open those of its partitions that are led here and not open yet."""

    async def close_topic(self, topic_id: UUID) -> None:
        """The topic was deleted: drop its partitions."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic is asked to be. `assignments`: partition index and replicas, instead of a count and a factor."""

    name: str
    num_partitions: int = BROKER_DEFAULT
    replication_factor: int = BROKER_DEFAULT
    assignments: Sequence[tuple[int, Assignment]] = ()
    configs: Mapping[str, str | None] = field(default_factory=dict)


class TopicAdmin:
    """See the module docstring. Methods raise AdminError, CatalogError or StorageError."""

    def __init__(self, catalog: Catalog, image: MetadataImage, partitions: TopicHost, config: BrokerConfig) -> None:
        self.configs = ConfigAdmin(catalog, image, config)
        self.reassignments = Reassignments(catalog, image)
        self._catalog = catalog
        self._image = image
        self._partitions = partitions
        self._config = config
        self._turn = itertools.count()
        self._creating: set[str] = set()
        self._auto_creations: dict[str, asyncio.Task[TopicInfo]] = {}

    async def close(self) -> None:
        """Wait for the auto-creations that are under way."""
        await asyncio.gather(*self._auto_creations.values(), return_exceptions=True)

    # -- create -----------------------------------------------------------------------------------------------------
    async def create(self, spec: TopicSpec, *, validate_only: bool = False) -> TopicInfo:
        """The new topic; with `validate_only` what it would be (its id is then zero)."""
        new = self._validated(spec)
        if validate_only:
            return _planned(new)
        self._creating.add(spec.name)
        try:
            created = await self._catalog.create_topic(new)
        except TopicExists:
            await self._image.refresh()
            raise _exists(spec.name) from None
        else:
            await self._image.refresh()
        finally:
            self._creating.discard(spec.name)
        topic = self._image.topic_by_id(created.topic_id.bytes) or created
        await self._partitions.open_topic(topic)
        log.info("topic created", topic=topic.name, partitions=len(topic.partitions), internal=topic.internal)
        return topic

    async def ensure(self, name: str) -> TopicInfo:
        """The topic of this name, created with the broker's defaults if need be (internal ones with their own)."""
        topic = self._image.topic(name)
        if topic is not None:
            return topic
        creation = self._auto_creations.get(name)
        if creation is None:
            creation = asyncio.create_task(self._auto_create(name), name=f"auto-create-{name}")
            self._auto_creations[name] = creation
            creation.add_done_callback(lambda done: self._auto_created(name, done))
        # a client that goes away must not take the creation from the others that wait for it
        return await asyncio.shield(creation)

    async def _auto_create(self, name: str) -> TopicInfo:
        try:
            return await self.create(self._internal_spec(name) if name in names.INTERNAL_TOPICS else TopicSpec(name))
        except AdminError as error:
            topic = self._image.topic(name)
            if error.code is ErrorCode.TOPIC_ALREADY_EXISTS and topic is not None:
                return topic
            raise

    def _auto_created(self, name: str, creation: asyncio.Task[TopicInfo]) -> None:
        self._auto_creations.pop(name, None)
        if not creation.cancelled():
            creation.exception()  # those who waited were told

    def _internal_spec(self, name: str) -> TopicSpec:
        """As Kafka makes its internal topics."""
        config = self._config
        configs: dict[str, str | None] = {"cleanup.policy": "compact", "compression.type": "producer"}
        if config.tailrace_internal_topics_durability is not None:
            configs["tailrace.durability"] = config.tailrace_internal_topics_durability
        if name == names.CONSUMER_OFFSETS:
            configs["segment.bytes"] = str(config.offsets_topic_segment_bytes)
            return TopicSpec(
                name, config.offsets_topic_num_partitions, config.offsets_topic_replication_factor, (), configs
            )
        configs["compression.type"] = "uncompressed"
        configs["min.insync.replicas"] = str(config.transaction_state_log_min_isr)
        configs["segment.bytes"] = str(config.transaction_state_log_segment_bytes)
        configs["unclean.leader.election.enable"] = "false"
        return TopicSpec(
            name,
            config.transaction_state_log_num_partitions,
            config.transaction_state_log_replication_factor,
            (),
            configs,
        )

    def _validated(self, spec: TopicSpec) -> NewTopic:
        self._check_name(spec.name)
        configs = self._checked_configs(spec.configs)
        replicas: list[Assignment] = []
        if spec.assignments:
            replicas = self._assigned(spec)
            leaders, factor = self._assigned_leaders(replicas), len(replicas[0])
        else:
            leaders, factor = self._placed(spec)
        return NewTopic(
            name=spec.name,
            leaders=leaders,
            configs=configs,
            replication_factor=factor,
            internal=spec.name in names.INTERNAL_TOPICS,
            replicas=replicas,
        )

    def _check_name(self, name: str) -> None:
        problem = names.name_problem(name)
        if problem is not None:
            raise AdminError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
        if self._image.topic(name) is not None:
            raise _exists(name)
        taken = itertools.chain(self._creating, (each.name for each in self._image.topics()))
        other = names.colliding(name, taken)
        if other is not None:
            raise AdminError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {other}")

    def _checked_configs(self, configs: Mapping[str, str | None]) -> dict[str, str]:
        without_value = [key for key, value in configs.items() if value is None]
        if without_value:
            message = f"Null value not supported for topic configs: {','.join(without_value)}"
            raise AdminError(ErrorCode.INVALID_CONFIG, message)
        checked = {key: value for key, value in configs.items() if value is not None}
        try:
            validate_topic_configs(checked, self._config)
        except ConfigError as error:
            raise AdminError(ErrorCode.INVALID_CONFIG, str(error)) from None
        return checked

    def _placed(self, spec: TopicSpec) -> tuple[list[int], int]:
        factor = spec.replication_factor
        if factor == BROKER_DEFAULT:
            factor = self._config.default_replication_factor
        elif factor <= 0:
            raise AdminError(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            )
        count = spec.num_partitions
        if count == BROKER_DEFAULT:
            count = self._config.num_partitions
        elif count <= 0:
            raise AdminError(
                ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value."
            )
        _check_growth(count)
        return self._place(count), factor

    def _place(self, count: int) -> list[int]:
        usable = [each.node_id for each in self._image.receivers() or self._image.brokers()]
        if not usable:
            raise AdminError(ErrorCode.BROKER_NOT_AVAILABLE, "No broker is alive.")
        return place_leaders(count, usable, count_leaders(self._image.topics()), next(self._turn))

    def _assigned(self, spec: TopicSpec) -> list[Assignment]:
        """The replicas of each partition, in order."""
        if spec.replication_factor != BROKER_DEFAULT:
            raise AdminError(
                ErrorCode.INVALID_REQUEST,
                "A manual partition assignment was specified, but replication factor was not set to -1.",
            )
        if spec.num_partitions != BROKER_DEFAULT:
            raise AdminError(
                ErrorCode.INVALID_REQUEST,
                "A manual partition assignment was specified, but numPartitions was not set to -1.",
            )
        by_index: dict[int, Assignment] = {}
        for index, assignment in spec.assignments:
            if index in by_index:
                message = f"Found multiple manual partition assignments for partition {index}"
                raise AdminError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
            by_index[index] = assignment
        if sorted(by_index) != list(range(len(by_index))):
            raise AdminError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence"
            )
        _check_growth(len(by_index))
        return [by_index[index] for index in range(len(by_index))]

    def _assigned_leaders(self, assignments: Sequence[Assignment]) -> list[int]:
        leaders = []
        for assignment in assignments:
            problem = assignment_problem(self._image, assignment)
            if problem is not None:
                raise _bad_assignment(problem)
            if len(assignment) != len(assignments[0]):
                raise _bad_assignment(
                    f"includes a partition with {len(assignment)} replica(s), but this is not consistent with previous "
                    f"partitions, which have {len(assignments[0])} replica(s)."
                )
            alive = {each.node_id for each in self._image.brokers()}
            usable = [node_id for node_id in assignment if node_id in alive]
            if not usable:
                raise _bad_assignment("includes a partition none of whose brokers is alive.")
            leaders.append(usable[0])
        return leaders

    # -- extend -----------------------------------------------------------------------------------------------------
    async def create_partitions(
        self, name: str, count: int, assignments: Sequence[Assignment] | None = None, *, validate_only: bool = False
    ) -> None:
        """Grow the topic to `count` partitions; `assignments` are those of the new ones."""
        topic = self._image.topic(name)
        if topic is None:
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        present = len(topic.partitions)
        if count == present:
            raise AdminError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {present} partition(s).")
        if count < present:
            raise AdminError(
                ErrorCode.INVALID_PARTITIONS,
                f"The topic {name} currently has {present} partition(s); {count} would not be an increase.",
            )
        added = count - present
        if assignments is None:
            _check_growth(added)
            leaders = self._place(added)
        elif len(assignments) != added:
            raise AdminError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Attempted to add {added} additional partition(s), but only {len(assignments)} assignment(s) were "
                "specified.",
            )
        else:
            _check_growth(added)
            leaders = self._assigned_leaders(assignments)
        if validate_only:
            return
        try:
            await self._catalog.add_partitions(topic.topic_id, leaders, assignments or ())
        except UnknownTopic:
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION) from None
        await self._image.refresh()
        grown = self._image.topic_by_id(topic.topic_id.bytes)
        if grown is not None:
            await self._partitions.open_topic(grown)
        log.info("partitions created", topic=name, partitions=count)

    # -- delete -----------------------------------------------------------------------------------------------------
    async def delete(self, topic: TopicInfo) -> None:
        """Internal topics may be deleted too, as in Kafka."""
        if not self._config.delete_topic_enable:
            raise AdminError(ErrorCode.TOPIC_DELETION_DISABLED)
        try:
            await self._catalog.delete_topic(topic.topic_id)
        except UnknownTopic:
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION) from None
        finally:
            await self._image.refresh()
        await self._partitions.close_topic(topic.topic_id)
        log.info("topic deleted", topic=topic.name)


def _exists(name: str) -> AdminError:
    return AdminError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")


def _bad_assignment(what: str) -> AdminError:
    return AdminError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment {what}")


def _check_growth(count: int) -> None:
    if count > PARTITIONS_PER_TOPIC_MAX:
        raise AdminError(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")


def _planned(new: NewTopic) -> TopicInfo:
    replicas = [tuple(each) for each in new.replicas] or [()] * len(new.leaders)
    partitions = tuple(
        PartitionInfo(index, leader, 0, -1, -1, replicas=nodes)
        for index, (leader, nodes) in enumerate(zip(new.leaders, replicas, strict=True))
    )
    return TopicInfo(_NOT_CREATED, new.name, new.internal, new.replication_factor, partitions, new.configs)
