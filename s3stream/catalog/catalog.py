"""`SqlCatalog`: the seam's methods, each one transaction on a `Database`.

What may be repeated after an unknown outcome is said here, per method: repeating it must lead to the same state and the
same answer. The others surface CatalogUnreachable, and their caller looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Connection

from s3stream.catalog import (
    brokers,
    changes,
    giving_up,
    leaders,
    listing,
    locks,
    objects,
    replacing,
    snapshot,
    streams,
    topics,
)
from s3stream.catalog.api import (
    BrokerInfo,
    Changes,
    LostTail,
    NewObject,
    NewTopic,
    ObjectInfo,
    ObjectTotals,
    PartitionInfo,
    SetObject,
    StreamInfo,
    StreamRange,
    TopicInfo,
)
from s3stream.catalog.database import Database
from s3stream.catalog.schema import OBJECT_ID, PRODUCER_ID
from s3stream.catalog.snapshot import Snapshot

T = TypeVar("T")

PAGE_COUNT = 4000
"""Streams whose objects `live_objects` reads in one transaction."""
ROWS_PER_TURN = 250
"""Objects whose ranges are decoded before the event loop gets its turn."""

SWEEP_COUNT_MAX = 64
"""Transactions of one `abandoned_objects` call that look for objects with a dead witness."""


class SqlCatalog:
    """See `s3stream.catalog.api.Catalog`."""

    def __init__(self, database: Database, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self._database = database

    async def close(self) -> None:
        await self._database.close()

    # -- brokers ------------------------------------------------------------------------------------------------------
    async def register_broker(
        self, node_id: int, host: str, port: int, rack: str | None, wal_url: str, lease_ms: int, incarnation: UUID
    ) -> BrokerInfo:
        def transaction(tx: Connection) -> BrokerInfo:
            return brokers.register(tx, node_id, host, port, rack, wal_url, lease_ms, incarnation)

        return await self._database.write(transaction, idempotent=True)

    async def fence_broker(
        self, node_id: int, epoch: int, *, only_expired: bool = False, only_idle: bool = False
    ) -> bool:
        return await self._database.write(
            lambda tx: brokers.fence(tx, node_id, epoch, only_expired, only_idle), idempotent=True
        )

    async def unrecovered(self) -> list[BrokerInfo]:
        return await self._database.read(brokers.unrecovered)

    async def renew_lease(self, node_id: int, broker_epoch: int, lease_ms: int) -> None:
        if not await self._database.write(
            lambda tx: brokers.renew(tx, node_id, broker_epoch, lease_ms), idempotent=True
        ):
            await self._database.write(lambda tx: brokers.revive(tx, node_id, broker_epoch, lease_ms), idempotent=True)

    async def leave(self, node_id: int, broker_epoch: int) -> None:
        await self._database.write(lambda tx: brokers.leave(tx, node_id, broker_epoch), idempotent=True)

    async def close_broker(self, node_id: int, broker_epoch: int) -> None:
        await self._database.write(lambda tx: brokers.close(tx, node_id, broker_epoch), idempotent=True)

    async def unregister_broker(self, node_id: int) -> None:
        await self._database.write(lambda tx: brokers.unregister(tx, node_id), idempotent=False)

    async def brokers(self) -> list[BrokerInfo]:
        return await self._database.read(brokers.latest)

    # -- topics, partitions, configs ----------------------------------------------------------------------------------
    async def create_topic(self, topic: NewTopic) -> TopicInfo:
        return await self._database.write(lambda tx: topics.create(tx, topic), idempotent=False)

    async def delete_topic(self, topic_id: UUID) -> None:
        await self._database.write(lambda tx: topics.remove(tx, topic_id), idempotent=False)

    async def add_partitions(
        self, topic_id: UUID, leaders: Sequence[int], replicas: Sequence[Sequence[int]] = ()
    ) -> TopicInfo:
        return await self._database.write(
            lambda tx: topics.add_partitions(tx, topic_id, leaders, replicas), idempotent=False
        )

    async def set_targets(self, targets: Mapping[UUID, Mapping[int, int | None]]) -> int:
        return await self._database.write(lambda tx: leaders.set_targets(tx, targets), idempotent=True)

    async def cancel_moves(self, leader: int, targets: Collection[int]) -> int:
        return await self._database.write(lambda tx: leaders.cancel_moves(tx, leader, targets), idempotent=True)

    async def set_replicas(self, replicas: Mapping[UUID, Mapping[int, Sequence[int] | None]]) -> int:
        return await self._database.write(lambda tx: leaders.set_replicas(tx, replicas), idempotent=True)

    async def hand_over(
        self, node_id: int, broker_epoch: int, partitions: Mapping[UUID, Sequence[int]]
    ) -> dict[UUID, dict[int, PartitionInfo]]:
        return await self._database.write(
            lambda tx: leaders.hand_over(tx, node_id, broker_epoch, partitions), idempotent=True
        )

    async def claim_partitions(self, node_id: int, broker_epoch: int, *, absent: Collection[int] = ()) -> int:
        return await self._database.write(
            lambda tx: leaders.claim_partitions(tx, node_id, broker_epoch, absent), idempotent=True
        )

    async def alter_configs(self, resource_type: str, name: str, changes: Mapping[str, str | None]) -> None:
        await self._database.write(lambda tx: topics.alter_configs(tx, resource_type, name, changes), idempotent=True)

    async def load_changes(self, after: int) -> Changes:
        return await self._database.read(lambda tx: changes.load(tx, after))

    # -- streams ------------------------------------------------------------------------------------------------------
    async def open_streams(self, node_id: int, broker_epoch: int, stream_ids: Sequence[int]) -> list[StreamInfo]:
        # Opening again gives another epoch; the one of the lost answer was never used.
        return await self._database.write(
            lambda tx: streams.open_streams(tx, node_id, broker_epoch, stream_ids), idempotent=True
        )

    async def close_streams(self, node_id: int, broker_epoch: int, epochs: Mapping[int, int]) -> None:
        await self._database.write(lambda tx: streams.close_streams(tx, node_id, broker_epoch, epochs), idempotent=True)

    async def trim_streams(self, node_id: int, broker_epoch: int, starts: Mapping[int, tuple[int, int]]) -> None:
        await self._database.write(lambda tx: streams.trim_streams(tx, node_id, broker_epoch, starts), idempotent=True)

    async def stream_infos(self, stream_ids: Sequence[int]) -> list[StreamInfo]:
        return await self._database.read(lambda tx: streams.infos(tx, stream_ids))

    async def live_objects(self, stream_ids: Sequence[int], after: int = 0) -> list[ObjectInfo]:
        found: dict[int, ObjectInfo] = {}
        for ids in locks.chunks(sorted(set(stream_ids)), PAGE_COUNT):
            starts, rows = await self._database.read(partial(listing.live_rows, stream_ids=ids, after=after))
            for number, row in enumerate(rows, 1):
                if number % ROWS_PER_TURN == 0:
                    await asyncio.sleep(0)
                if (info := listing.live_object(row, starts)) is not None:
                    known = found.get(info.object_id)
                    found[info.object_id] = info if known is None else replace(info, ranges=known.ranges + info.ranges)
        return [found[object_id] for object_id in sorted(found)]

    async def latest_streams(self) -> set[int]:
        return await self._database.read(listing.latest_streams)

    # -- objects ------------------------------------------------------------------------------------------------------
    async def prepare_objects(self, node_id: int, broker_epoch: int, count: int) -> list[tuple[int, str]]:
        # Ids of a lost answer are never uploaded, and given up later.
        return await self._database.write(lambda tx: objects.prepare(tx, node_id, broker_epoch, count), idempotent=True)

    async def commit_objects(
        self, node_id: int, broker_epoch: int, added: Sequence[NewObject], epochs: Mapping[int, int]
    ) -> None:
        def transaction(tx: Connection) -> None:
            objects.commit(tx, node_id, broker_epoch, added, epochs)

        await self._database.write(transaction, idempotent=True)

    async def set_objects(self) -> list[SetObject]:
        return await self._database.read(listing.set_objects)

    async def object_ranges(self, object_ids: Sequence[int]) -> list[ObjectInfo]:
        return await self._database.read(lambda tx: listing.object_ranges(tx, object_ids))

    async def replace_objects(
        self,
        node_id: int,
        broker_epoch: int,
        removed: Mapping[int, Sequence[StreamRange]],
        added: Sequence[NewObject],
        compacted: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        def transaction(tx: Connection) -> None:
            replacing.replace_objects(tx, node_id, broker_epoch, removed, added, compacted or {})

        await self._database.write(transaction, idempotent=True)

    async def recovered(
        self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int, absent: Collection[int] | None = None
    ) -> int:
        def transaction(tx: Connection) -> int:
            brokers.recovered(tx, node_id, epoch, by_node_id, by_broker_epoch)
            return 0 if absent is None else leaders.claim_partitions(tx, by_node_id, by_broker_epoch, absent)

        return await self._database.write(transaction, idempotent=True)

    async def claim_recovery(self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> bool:
        return await self._database.write(
            lambda tx: brokers.claim_recovery(tx, node_id, epoch, by_node_id, by_broker_epoch), idempotent=True
        )

    async def release_recovery(self, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> None:
        await self._database.write(
            lambda tx: brokers.release_recovery(tx, node_id, epoch, by_node_id, by_broker_epoch), idempotent=True
        )

    async def lost_tails(self, node_id: int) -> list[LostTail]:
        return await self._database.read(lambda tx: giving_up.lost_tails(tx, node_id))

    async def give_up(self, node_id: int) -> list[LostTail]:
        # the answer of one that happened without one is in the record
        return await self._database.write(lambda tx: giving_up.give_up(tx, node_id), idempotent=False)

    async def given_up(self, node_id: int) -> list[tuple[int, LostTail]]:
        return await self._database.read(lambda tx: giving_up.given_up(tx, node_id))

    async def abandoned_objects(
        self, older_than_ms: int, limit: int, retired_older_than_ms: int | None = None
    ) -> list[tuple[int, str]]:
        retired_ms = older_than_ms if retired_older_than_ms is None else retired_older_than_ms
        for _ in range(SWEEP_COUNT_MAX):
            # on SQLite nobody can write while a writer looks, and with many objects that takes long
            if not await self._database.read(objects.any_dead):
                break
            seen = await self._database.write(lambda tx: objects.retire_dead(tx, None), idempotent=True)
            if seen < objects.RETIRE_COUNT_MAX:
                break
        return await self._database.write(
            lambda tx: objects.abandon(tx, older_than_ms, retired_ms, limit), idempotent=True
        )

    async def forget_objects(self, object_ids: Sequence[int]) -> None:
        await self._database.write(lambda tx: objects.forget(tx, object_ids), idempotent=True)

    # -- ids ----------------------------------------------------------------------------------------------------------
    async def allocate_producer_ids(self, node_id: int, broker_epoch: int, count: int) -> int:
        def transaction(tx: Connection) -> int:
            locks.require_broker(tx, node_id, broker_epoch)
            return locks.take(tx, PRODUCER_ID, count)

        return await self._database.write(transaction, idempotent=True)

    async def object_totals(self) -> ObjectTotals:
        return await self._database.read(listing.object_totals)

    # -- backup -------------------------------------------------------------------------------------------------------
    async def snapshot(self) -> Snapshot:
        return await self._database.read(snapshot.take)

    async def last_object_id(self) -> int:
        return await self._database.read(lambda tx: locks.last_taken(tx, OBJECT_ID))
