"""What the catalog holds and what may be asked of it.

One schema behind SQLAlchemy Core, on SQLite or PostgreSQL. Every method is one transaction. Every write of a broker
carries its node id and **broker epoch** and fails with `BrokerFenced` if that registration is not the current one.
Leases use the database's clock.

The catalog is never on the produce or tail-fetch path. Brokers serve metadata from an in-memory image (`MetadataImage`)
that follows the **change sequence**: each transaction that changes topics, partitions, brokers or configs writes rows
(`seq`, kind, key), and `load_changes(after)` returns what they point at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


class CatalogError(Exception):
    """Root of the catalog's errors."""


class CatalogUnreachable(CatalogError):
    """The database does not answer. Retriable; the outcome of a write is unknown."""


class CatalogTooNew(CatalogError):
    """The schema was written by a newer tailrace."""


class BrokerFenced(CatalogError):
    """Another registration of this node id, or the end of its lease, has taken this broker's place."""


class StreamEpochFenced(CatalogError):
    """A stream was opened by somebody else since."""


class OffsetsNotContinuous(CatalogError):
    """A commit does not begin where the stream's committed end is."""


class TopicExists(CatalogError):
    """A topic of this name is there already."""


class UnknownTopic(CatalogError):
    """No such topic."""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A registered broker. `alive`: its lease had not run out, by the database's clock, when this was read.

    `closed` is set by a clean shutdown: its WAL is empty and its streams are closed, so that anybody may take them.
    """

    node_id: int
    epoch: int
    host: str
    port: int
    rack: str | None
    wal_url: str
    alive: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """`leader` is a node id; `leader_epoch` grows with every change of it."""

    index: int
    leader: int
    leader_epoch: int
    log_stream_id: int
    state_stream_id: int


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic with all its partitions, in index order. `configs` holds only what was set, Kafka's names and text values."""

    topic_id: UUID
    name: str
    internal: bool
    replication_factor: int
    partitions: tuple[PartitionInfo, ...]
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """`end_offset` is the committed end. An open stream belongs to `node_id`."""

    stream_id: int
    epoch: int
    open: bool
    node_id: int | None
    start_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class StreamRange:
    """The part of one stream that an object holds. Half-open offsets, size in bytes, timestamp in ms."""

    stream_id: int
    start_offset: int
    end_offset: int
    size: int
    max_timestamp: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A committed object and the ranges it holds (sorted by stream id, then offset)."""

    object_id: int
    key: str
    size: int
    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class NewTopic:
    """`leaders` gives the leader of each partition, so its length is the partition count."""

    name: str
    leaders: Sequence[int]
    configs: Mapping[str, str]
    replication_factor: int = 1
    internal: bool = False
    topic_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a sequence number: entities in their present form; None means gone."""

    seq: int
    topics: Mapping[UUID, TopicInfo | None]
    brokers: Mapping[int, BrokerInfo | None]
    configs: Mapping[tuple[str, str], Mapping[str, str]]
    """(resource type, name) -> all that is set now. Type is "broker" (name: node id or "" for the cluster default) or
    "group" or "client-metrics"; topic configs are in TopicInfo."""


class Catalog(Protocol):
    """See the module docstring. `node_id` and `broker_epoch` identify the writer."""

    cluster_id: str
    """22 characters of url-safe base64, as Kafka's."""

    async def close(self) -> None: ...

    # -- brokers ----------------------------------------------------------------------------------------------------
    async def register_broker(
        self, node_id: int, host: str, port: int, rack: str | None, wal_url: str, lease_ms: int, incarnation: UUID
    ) -> BrokerInfo:
        """A new epoch for this node id. The former registration, if any, is fenced from now on.

        Raises CatalogError if a *different* incarnation of the node id still holds a live lease and was not closed.
        (The caller decides whether it may take over: it passes `takeover=...` via `fence_broker` first.)
        """

    async def fence_broker(self, node_id: int, epoch: int) -> None:
        """End this registration's lease now: the caller has proof (the WAL's lock) that its process is gone."""

    async def renew_lease(self, node_id: int, broker_epoch: int, lease_ms: int) -> None:
        """Raises BrokerFenced."""

    async def close_broker(self, node_id: int, broker_epoch: int) -> None:
        """Clean shutdown: streams closed, WAL empty. Ends the lease."""

    async def brokers(self) -> list[BrokerInfo]: ...

    # -- topics, partitions, configs -----------------------------------------------------------------------------------
    async def create_topic(self, topic: NewTopic) -> TopicInfo:
        """Creates its streams too (closed, epoch 0). Raises TopicExists (names are compared exactly)."""

    async def delete_topic(self, topic_id: UUID) -> None:
        """Removes the topic; its streams are marked deleted, their objects follow later. Raises UnknownTopic."""

    async def add_partitions(self, topic_id: UUID, leaders: Sequence[int]) -> TopicInfo:
        """Append partitions. Raises UnknownTopic."""

    async def set_leaders(self, topic_id: UUID, leaders: Mapping[int, int]) -> TopicInfo:
        """Partition index -> new leader; bumps their leader epochs."""

    async def claim_partitions(self, node_id: int, broker_epoch: int) -> int:
        """Give this broker every partition whose leader is closed, or fenced and recovered. Returns how many."""

    async def alter_configs(self, resource_type: str, name: str, changes: Mapping[str, str | None]) -> None:
        """None removes. For type "topic" the name is the topic's. Raises UnknownTopic."""

    async def load_changes(self, after: int) -> Changes:
        """Everything for after=0."""

    # -- streams --------------------------------------------------------------------------------------------------------
    async def open_streams(self, node_id: int, broker_epoch: int, stream_ids: Sequence[int]) -> list[StreamInfo]:
        """New epochs, in the order asked. Raises StreamEpochFenced if one is open at another broker that is alive or
        not recovered, BrokerFenced."""

    async def close_streams(self, node_id: int, broker_epoch: int, epochs: Mapping[int, int]) -> None:
        """Stream id -> epoch. Closing what is closed under the same epoch is no error."""

    async def trim_streams(self, node_id: int, broker_epoch: int, starts: Mapping[int, tuple[int, int]]) -> None:
        """Stream id -> (epoch, new start offset). Objects wholly below every start are marked for deletion."""

    async def stream_infos(self, stream_ids: Sequence[int]) -> list[StreamInfo]: ...

    async def live_objects(self, stream_ids: Sequence[int]) -> list[ObjectInfo]:
        """Committed objects that hold ranges of any of these streams at or above their start offset."""

    # -- objects ----------------------------------------------------------------------------------------------------------
    async def prepare_objects(self, node_id: int, broker_epoch: int, count: int) -> list[tuple[int, str]]:
        """Register `count` objects before their upload; returns (object id, key). Keys spread over prefixes."""

    async def commit_object(
        self, node_id: int, broker_epoch: int, object_id: int, size: int, ranges: Sequence[StreamRange], epochs: Mapping[int, int]
    ) -> None:
        """Checks broker epoch, stream epochs (`epochs`: stream id -> epoch) and that each range begins at the stream's
        committed end; moves the ends. Committing the same object again is no error (a lost answer may be retried).

        Raises BrokerFenced, StreamEpochFenced, OffsetsNotContinuous. A stream that was deleted meanwhile is skipped.
        """

    async def recovered(self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> None:
        """The WAL of (node_id, epoch) is in objects: its streams are closed, its partitions may be claimed."""

    async def abandoned_objects(self, older_than_ms: int, limit: int) -> list[tuple[int, str]]:
        """Prepared and never committed (by age on the database's clock, or of a fenced broker epoch), or marked for deletion."""

    async def forget_objects(self, object_ids: Sequence[int]) -> None:
        """They are gone from the bucket."""

    # -- ids ---------------------------------------------------------------------------------------------------------------
    async def allocate_producer_ids(self, node_id: int, broker_epoch: int, count: int) -> int:
        """The first of `count` producer ids that nobody else gets."""
