"""What the catalog holds and what may be asked of it.

One schema behind SQLAlchemy Core, on SQLite or PostgreSQL. Every method is one transaction. Every write of a broker
carries its node id and **broker epoch** and fails with `BrokerFenced` if that registration is not the current one.
Leases use the database's clock.

The catalog is never on the produce or tail-fetch path. Brokers serve metadata from an in-memory image (`MetadataImage`)
that follows the **change sequence**: each transaction that changes topics, partitions, brokers or configs writes rows
(`seq`, kind, key), and `load_changes(after)` returns what they point at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from s3stream.catalog.snapshot import Snapshot


class CatalogError(Exception):
    """Root of the catalog's errors."""


class CatalogUnreachable(CatalogError):
    """The database does not answer. Retriable; the outcome of a write is unknown."""


class CatalogTooNew(CatalogError):
    """The schema was written by a newer tailrace."""


class BrokerFenced(CatalogError):
    """Another registration of this node id, or the end of its lease, has taken this broker's place."""


class BrokerAlreadyRegistered(CatalogError):
    """Another process holds this node id with a live lease. The message names its address."""


class UnknownBroker(CatalogError):
    """No broker of this node id is registered."""


class BrokerNotStopped(CatalogError):
    """It runs, or what it left is not recovered. The message says which."""


class StreamEpochFenced(CatalogError):
    """A stream was opened by somebody else since, or is still open at a broker that is not recovered."""


class UnknownStream(CatalogError):
    """No such stream: its topic was deleted."""


class OffsetsNotContinuous(CatalogError):
    """A commit does not begin where the stream's committed end is."""


class ObjectGone(CatalogError):
    """A prepared object was given up (`abandoned_objects`) before its commit. Upload again under a new id."""


class BrokerUnavailable(CatalogError):
    """A broker that is to lead is not alive, or about to stop."""


class ObjectsReplaced(CatalogError):
    """What was to be replaced is not what it was when it was read: replaced by others, or trimmed."""


class TopicExists(CatalogError):
    """A topic of this name is there already."""


class UnknownTopic(CatalogError):
    """No such topic."""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A registered broker. `alive`: its lease had not run out, by the database's clock, when this was read.

    `closed`: its WAL holds nothing that is not in objects and its streams are closed, because it shut down cleanly or
    was recovered; anybody may take its partitions. `fenced`: its writes are refused from now on, and its WAL is to be
    recovered before anybody opens its streams.
    """

    node_id: int
    epoch: int
    host: str
    port: int
    rack: str | None
    wal_url: str
    alive: bool
    closed: bool
    fenced: bool = False
    leaving: bool = False
    """It is about to stop: it gives away what it leads, and nothing is given to it."""


NO_LEADER = -1

DRAINING = "tailrace.draining"
"""Dynamic config ("true" or "false") of a "broker": it gives away what it leads, and nothing is given to it."""


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """`leader` is a node id, or NO_LEADER; `leader_epoch` grows with every change of it."""

    index: int
    leader: int
    leader_epoch: int
    log_stream_id: int
    state_stream_id: int
    target: int | None = None
    """The broker that leadership is to be handed to; None: it stays. The leader acts on it."""
    replicas: tuple[int, ...] = ()
    """As assigned, the preferred leader first; empty: nobody assigned any."""
    former_replicas: tuple[int, ...] | None = None
    """`replicas` before the reassignment that waits for its target to lead; None: no reassignment goes on."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic with all its partitions, in index order. `configs`: only what was set, Kafka's names and text values."""

    topic_id: UUID
    name: str
    internal: bool
    replication_factor: int
    partitions: tuple[PartitionInfo, ...]
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """`end_offset` is the committed end. An open stream belongs to `node_id`. Below `compacted_offset` the log was
    compacted by key."""

    stream_id: int
    epoch: int
    open: bool
    node_id: int | None
    start_offset: int
    end_offset: int
    compacted_offset: int = 0


@dataclass(frozen=True, slots=True, order=True)
class StreamRange:
    """The part of one stream that an object holds. Half-open offsets, size in bytes, timestamp in ms. Sorts by stream
    and offset."""

    stream_id: int
    start_offset: int
    end_offset: int
    size: int
    max_timestamp: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A committed object and those of its ranges that were asked for (sorted by stream id, then offset). `shared`: it
    is a stream set object, of several streams."""

    object_id: int
    key: str
    size: int
    ranges: tuple[StreamRange, ...]
    shared: bool = True


@dataclass(frozen=True, slots=True)
class SetObject:
    """A committed stream set object, without its ranges: of streams from first to last id, uploaded (or rewritten) by
    `node_id` `age_ms` ago. `generation` counts its rewritings."""

    object_id: int
    key: str
    size: int
    node_id: int
    generation: int
    first_stream_id: int
    last_stream_id: int
    age_ms: int


@dataclass(frozen=True, slots=True)
class NewObject:
    """A prepared object that was uploaded, about to be committed."""

    object_id: int
    size: int
    ranges: tuple[StreamRange, ...]
    generation: int = 0


@dataclass(frozen=True, slots=True)
class ObjectTotals:
    """Committed objects and their bytes; `unneeded_count` wait for their deletion."""

    count: int
    size: int
    unneeded_count: int


@dataclass(frozen=True, slots=True)
class NewTopic:
    """`leaders` gives the leader of each partition, so its length is the partition count; `replicas`, if they were
    assigned, is as long."""

    name: str
    leaders: Sequence[int]
    configs: Mapping[str, str]
    replication_factor: int = 1
    internal: bool = False
    topic_id: UUID | None = None
    replicas: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a sequence number: entities in their present form; None means gone."""

    seq: int
    topics: Mapping[UUID, TopicInfo | None]
    brokers: Mapping[int, BrokerInfo | None]
    configs: Mapping[tuple[str, str], Mapping[str, str]]
    """(resource type, name) -> all that is set now. Type is "broker" (name: node id or "" for the cluster default) or
    "group" or "client-metrics"; topic configs are in TopicInfo."""


class LostTail(NamedTuple):
    """What of a partition is only in a write-ahead log that nobody can read: everything from `start_offset` on. How
    much that is nobody knows. `last_upload_ms` is when the broker committed objects last, by the database's clock; None
    if it never did."""

    node_id: int
    epoch: int
    topic: str
    partition: int
    start_offset: int
    last_upload_ms: int | None


class Catalog(Protocol):
    """See the module docstring. `node_id` and `broker_epoch` identify the writer."""

    cluster_id: str
    """22 characters of url-safe base64, as Kafka's."""

    async def close(self) -> None: ...

    # -- brokers ---------------------------------------------------------------------------------------------
    async def register_broker(
        self, node_id: int, host: str, port: int, rack: str | None, wal_url: str, lease_ms: int, incarnation: UUID
    ) -> BrokerInfo:
        """A new epoch for this node id; epochs grow over all nodes. The former registration, if any, is fenced now.

        Raises BrokerAlreadyRegistered if a *different* incarnation of the node id holds a live lease and was not
        closed; a caller with proof that its process is gone calls `fence_broker` first. The same incarnation asking
        again (a lost answer) gets its current epoch. What the former registration left is in `unrecovered()`.
        """

    async def fence_broker(
        self, node_id: int, epoch: int, *, only_expired: bool = False, only_idle: bool = False
    ) -> bool:
        """End this registration now; returns whether it is at an end (fenced, closed, recovered or forgotten).

        Without `only_expired` the caller has proof that its process can not acknowledge any more (the WAL's lock, a
        seal). With it nothing happens unless the lease has run out by the database's clock. With `only_idle` nothing
        happens if it has a stream open; one that has none acknowledged nothing. A registration that has no stream open
        counts as recovered at once.
        """

    async def unrecovered(self) -> list[BrokerInfo]:
        """Fenced registrations, superseded ones of a node id too, that wait for `recovered`, with their WAL's URL."""

    async def claim_recovery(self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> bool:
        """End that registration, as `fence_broker`; whether it is this broker that recovers it. One that claimed it
        before and is not registered any more has lost its claim."""

    async def release_recovery(self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> None:
        """This broker could not recover it: others may try. No error if the claim is not its own."""

    async def renew_lease(self, node_id: int, broker_epoch: int, lease_ms: int) -> None:
        """A lease that ran out may be renewed as long as nobody fenced the broker. Raises BrokerFenced."""

    async def leave(self, node_id: int, broker_epoch: int) -> None:
        """This broker is about to stop: from now on it is nobody's target. Raises BrokerFenced."""

    async def close_broker(self, node_id: int, broker_epoch: int) -> None:
        """Clean shutdown: streams closed, WAL empty. Ends the lease. Raises CatalogError if a stream is still open."""

    async def unregister_broker(self, node_id: int) -> None:
        """Forget a broker that is closed or recovered, and its configs. Raises UnknownBroker, BrokerNotStopped."""

    async def brokers(self) -> list[BrokerInfo]:
        """The latest registration of every node id, by node id."""

    # -- topics, partitions, configs -------------------------------------------------------------------------
    async def create_topic(self, topic: NewTopic) -> TopicInfo:
        """Creates its streams too (closed, epoch 0). Raises TopicExists (names are compared exactly)."""

    async def delete_topic(self, topic_id: UUID) -> None:
        """Removes the topic; its streams are marked deleted, their objects follow later. Raises UnknownTopic."""

    async def add_partitions(
        self, topic_id: UUID, leaders: Sequence[int], replicas: Sequence[Sequence[int]] = ()
    ) -> TopicInfo:
        """Append partitions; `replicas` as in NewTopic. Raises UnknownTopic."""

    async def set_targets(self, targets: Mapping[UUID, Mapping[int, int | None]]) -> int:
        """Partition index -> the broker that is to lead it next. None, or who leads it already: it stays, and a
        reassignment that goes on is taken back. Returns how many partitions changed; those that are gone are skipped.

        The leader hands over by itself; a partition without a leader waits for its claim. Raises BrokerUnavailable.
        """

    async def cancel_moves(self, leader: int, targets: Collection[int]) -> int:
        """What `leader` leads and is to give to one of these stays, as by `set_targets`. Returns how many partitions
        changed."""

    async def set_replicas(self, replicas: Mapping[UUID, Mapping[int, Sequence[int] | None]]) -> int:
        """Assign replicas (not empty). The leader stays if it is one of them, else the first that is alive becomes the
        target, and the reassignment goes on until it leads or `set_targets` changes that. None takes back one that
        goes on: its former replicas are back, the leader stays. Returns how many partitions changed; those that are
        gone are skipped. Raises BrokerUnavailable if none of the assigned brokers is alive.
        """

    async def hand_over(
        self, node_id: int, broker_epoch: int, partitions: Mapping[UUID, Sequence[int]]
    ) -> dict[UUID, dict[int, PartitionInfo]]:
        """Give partitions that this broker leads, all of them in objects, to their targets: both streams are closed,
        the target leads with the next leader epoch. Returns those of `partitions` that this broker does not lead (any
        more); the others have no target that is alive, and stay as they are. Raises BrokerFenced.
        """

    async def claim_partitions(self, node_id: int, broker_epoch: int, *, absent: Collection[int] = ()) -> int:
        """Give every partition whose leader is closed, or fenced and recovered, to a broker that is alive: to its
        target, else to the one of its replicas (or of all brokers that are not drained) that leads the fewest by then.
        Targets that are not alive are forgotten. Nothing is given to the nodes in `absent`, whatever their leases.
        Returns how many were given away.

        A partition of this node id that a former registration has left unrecovered gets NO_LEADER: nobody may open it,
        until the log that has its tail is recovered and it is claimed.
        """

    async def alter_configs(self, resource_type: str, name: str, changes: Mapping[str, str | None]) -> None:
        """None removes. For type "topic" the name is the topic's. Raises UnknownTopic."""

    async def load_changes(self, after: int) -> Changes:
        """Everything for after=0. Brokers whose lease has run out and that nobody fenced yet are always included."""

    # -- streams ---------------------------------------------------------------------------------------------
    async def open_streams(self, node_id: int, broker_epoch: int, stream_ids: Sequence[int]) -> list[StreamInfo]:
        """New epochs, in the order asked. A stream that was trimmed beyond its committed end begins at its start.

        Raises StreamEpochFenced if one is open at another broker (or under a former epoch of this one) that is alive or
        not recovered, UnknownStream, BrokerFenced. All or nothing.
        """

    async def close_streams(self, node_id: int, broker_epoch: int, epochs: Mapping[int, int]) -> None:
        """Stream id -> epoch. Closing what is closed under the same epoch is no error."""

    async def trim_streams(self, node_id: int, broker_epoch: int, starts: Mapping[int, tuple[int, int]]) -> None:
        """Stream id -> (epoch, new start offset). Objects wholly below every start are marked for deletion.

        A start never goes back, and may lie beyond the committed end. Deleted streams are skipped. Raises BrokerFenced,
        StreamEpochFenced.
        """

    async def stream_infos(self, stream_ids: Sequence[int]) -> list[StreamInfo]:
        """In the order asked; deleted ones are left out."""

    async def live_objects(self, stream_ids: Sequence[int], after: int = 0) -> list[ObjectInfo]:
        """Committed objects that hold ranges of any of these streams at or above their start offset, by object id.

        Only those ranges are listed. What is said of one stream is of one moment: its ranges have no hole and no
        overlap, whatever is replaced meanwhile. With `after` only objects with a larger id are looked at.
        """

    async def latest_streams(self) -> set[int]:
        """Streams that the set objects uploaded last hold something of: in use until now, most likely."""

    # -- objects ---------------------------------------------------------------------------------------------
    async def prepare_objects(self, node_id: int, broker_epoch: int, count: int) -> list[tuple[int, str]]:
        """Register `count` objects before their upload; returns (object id, key). Keys spread over prefixes."""

    async def commit_objects(
        self, node_id: int, broker_epoch: int, added: Sequence[NewObject], epochs: Mapping[int, int]
    ) -> None:
        """All of them or none. Checks broker epoch, stream epochs (`epochs`: stream id -> epoch) and that each range
        begins at the stream's committed end; moves the ends. Committing the same again is no error (a lost answer may
        be retried).

        A range may skip offsets that were trimmed. The streams are open at this broker, or at one that is fenced and
        that this one recovers. A stream that was deleted meanwhile is skipped.

        Raises BrokerFenced, StreamEpochFenced, OffsetsNotContinuous, ObjectGone.
        """

    async def set_objects(self) -> list[SetObject]:
        """All committed stream set objects, by object id."""

    async def object_ranges(self, object_ids: Sequence[int]) -> list[ObjectInfo]:
        """Of those that are still committed, by object id: their ranges that are live."""

    async def replace_objects(
        self,
        node_id: int,
        broker_epoch: int,
        removed: Mapping[int, Sequence[StreamRange]],
        added: Sequence[NewObject],
        compacted: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        """Commit `added` in the place of these ranges of these objects (object id -> ranges).

        Checks that every one of these ranges is still where it was, and that per stream `added` covers exactly their
        offsets; only what was trimmed may be left out. An object that keeps no live range is retired. `compacted`
        (stream id -> (stream epoch, offset)) moves compacted offsets of streams that are open at this broker. Replacing
        the same again is no error (a lost answer may be retried).

        Raises ObjectsReplaced, BrokerFenced, StreamEpochFenced, OffsetsNotContinuous, ObjectGone.
        """

    async def recovered(
        self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int, absent: Collection[int] | None = None
    ) -> int:
        """The WAL of (node_id, epoch) is in objects: its streams are closed, its partitions may be claimed. With
        `absent` they are, in the same transaction, as by `claim_partitions`; returns how many.

        Saying so again is no error. Raises CatalogError if the registration was not fenced before, BrokerFenced for
        the recovering one.
        """

    async def lost_tails(self, node_id: int) -> list[LostTail]:
        """What `give_up` would give up now. Raises as that does."""

    async def give_up(self, node_id: int) -> list[LostTail]:
        """An unclean takeover, on an operator's word: the streams that its ended registrations have left open are
        closed where their objects end, and that is recorded for good. Returns what was lost.

        Raises CatalogError while somebody recovers it. A registration that lives is left alone.
        """

    async def given_up(self, node_id: int) -> list[tuple[int, LostTail]]:
        """What was given up of it ever, and when (ms, by the database's clock)."""

    async def abandoned_objects(
        self, older_than_ms: int, limit: int, retired_older_than_ms: int | None = None
    ) -> list[tuple[int, str]]:
        """(Object id, key) of what the bucket need not keep any more; from now on none of them can be committed.

        Prepared and never committed (for `older_than_ms` by the database's clock, or of a broker epoch that ended), or
        marked for deletion `retired_older_than_ms` (None: `older_than_ms`) ago. They are listed until `forget_objects`.
        """

    async def forget_objects(self, object_ids: Sequence[int]) -> None:
        """They are gone from the bucket."""

    # -- ids -------------------------------------------------------------------------------------------------
    async def allocate_producer_ids(self, node_id: int, broker_epoch: int, count: int) -> int:
        """The first of `count` producer ids that nobody else gets."""

    async def object_totals(self) -> ObjectTotals:
        """Of the whole cluster."""

    # -- backup ----------------------------------------------------------------------------------------------
    async def snapshot(self) -> Snapshot:
        """All but the objects, as of one moment: what is kept in the bucket for the day the database is gone."""

    async def last_object_id(self) -> int:
        """The last one that was given out."""
