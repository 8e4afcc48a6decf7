"""Ways to break what keeps brokers from each other's way, one at a time. The simulation has to notice each of them.

A mutation that no history notices means that a fault never happens, that a check is missing, or that something else
guards the same promise; the last kind is listed in `REDUNDANT`, with what that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

import broker.failover
import broker.lease
import broker.takeover
import broker.wal_address
import s3stream.catalog.brokers
import s3stream.catalog.leaders
import s3stream.catalog.objects
import s3stream.catalog.streams
import s3stream.recovery
import wal.file.reading_along
import wal.file.segments
from broker.failover import Failover
from broker.handoff.mover import Mover
from broker.lease import Lease
from broker.partition.opening import RecoveredState
from broker.partition.partition import Partition
from broker.partition.producer_state import ProducerStates
from broker.partitions import Partitions
from s3stream.append_log import AppendLog
from s3stream.catalog.schema import STREAM_CLOSED, streams
from s3stream.objectstore.slots import StoreSlots
from s3stream.storage import S3Storage
from wal.api import WalRecord
from wal.file.log import FileWal
from wal.object.store import SlotTaken

Change = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`what` is broken by putting something else in the places of `changes`."""

    what: str
    changes: Callable[[], list[Change]]

    def applied(self) -> AbstractContextManager[None]:
        return _applied(self.changes())


@contextmanager
def _applied(changes: list[Change]) -> Iterator[None]:
    saved = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
    for owner, name, new in changes:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, old in reversed(saved):
            setattr(owner, name, old)


MUTATIONS: dict[str, Mutation] = {}


def _mutation(name: str, what: str) -> Callable[[Callable[[], list[Change]]], Callable[[], list[Change]]]:
    def add(changes: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
        MUTATIONS[name] = Mutation(what, changes)
        return changes

    return add


async def _nothing_async(*args: Any, **kwargs: Any) -> None:
    return None


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


# -- leases -----------------------------------------------------------------------------------------------------------
@_mutation("lease-not-checked", "a broker acknowledges without looking at its lease")
def _lease_not_checked() -> list[Change]:
    return [(Lease, "is_held", lambda self: True)]


@_mutation("lease-checked-before-flush", "the lease is looked at when a batch is appended, not after the flush")
def _lease_checked_before_flush() -> list[Change]:
    from wal.file.log import FileWal as File
    from wal.object.log import ObjectWal

    def remembering(original: Any) -> Any:
        def append(self: Any, pieces: Any) -> Any:
            return original(self, pieces)

        return append

    held: dict[int, bool] = {}
    on_durable = AppendLog.on_durable

    def confirm_if_it_was_held(self: AppendLog, position: int) -> None:
        if not held.get(id(self), True):
            on_durable(self, position)
            return
        asked, self._may_confirm = self._may_confirm, lambda: True
        try:
            on_durable(self, position)
        finally:
            self._may_confirm = asked
            held[id(self)] = asked()

    return [
        (AppendLog, "on_durable", confirm_if_it_was_held),
        (File, "append", remembering(File.append)),
        (ObjectWal, "append", remembering(ObjectWal.append)),
    ]


@_mutation("lease-from-the-answer", "the lease counts from the answer of a renewal, not from when it was sent")
def _lease_from_the_answer() -> list[Change]:
    async def renew(self: Lease) -> None:
        await self._catalog.renew_lease(self._node_id, self._broker_epoch, self._lease_ms)
        self._held_until = self._clock() + self._usable_s

    return [(Lease, "renew", renew)]


@_mutation("lease-without-margin", "clocks that run slower than the database's are not allowed for")
def _lease_without_margin() -> list[Change]:
    return [(broker.lease, "MARGIN", -0.03)]


@_mutation("living-broker-fenced", "brokers are fenced although their leases go on and their logs are locked")
def _living_broker_fenced() -> list[Change]:
    async def has_lost_its_lease(self: Failover, info: Any) -> bool:
        return await self._catalog.fence_broker(info.node_id, info.epoch)

    return [(Failover, "_has_lost_its_lease", has_lost_its_lease)]


# -- the catalog's checks ---------------------------------------------------------------------------------------------
@_mutation("broker-epoch-not-checked", "a fenced broker may write to the catalog")
def _broker_epoch_not_checked() -> list[Change]:
    modules = (
        s3stream.catalog.objects,
        s3stream.catalog.streams,
        s3stream.catalog.brokers,
        s3stream.catalog.leaders,
    )
    return [(module, "require_broker", _nothing) for module in modules if hasattr(module, "require_broker")]


@_mutation("stream-epoch-not-checked", "a commit to streams that somebody else has opened since")
def _stream_epoch_not_checked() -> list[Change]:
    return [(s3stream.catalog.objects, "_check_epochs", _nothing)]


@_mutation("offsets-not-continuous", "a commit need not begin at the stream's end")
def _offsets_not_continuous() -> list[Change]:
    def advance(ordered: Any, present: Any) -> dict[int, int]:
        return {r.stream_id: r.end_offset for r in ordered if r.stream_id in present}

    return [(s3stream.catalog.objects, "_advance", advance)]


@_mutation("no-epoch-and-no-continuity", "neither stream epochs nor offsets of a commit are checked")
def _no_epoch_and_no_continuity() -> list[Change]:
    return _stream_epoch_not_checked() + _offsets_not_continuous()


@_mutation("open-stream-taken", "streams are opened although another broker has them open and is not recovered")
def _open_stream_taken() -> list[Change]:
    original = s3stream.catalog.streams.open_streams

    def open_streams(tx: Any, node_id: int, broker_epoch: int, stream_ids: Any) -> Any:
        tx.execute(update(streams).where(streams.c.stream_id.in_(list(stream_ids))).values(state=STREAM_CLOSED))
        return original(tx, node_id, broker_epoch, stream_ids)

    return [(s3stream.catalog.streams, "open_streams", open_streams)]


@_mutation("leader-epoch-kept", "a new leader leads under the former one's epoch")
def _leader_epoch_kept() -> list[Change]:
    from sqlalchemy import bindparam

    from s3stream.catalog.schema import partitions

    kept = (
        update(partitions)
        .where(partitions.c.topic_id == bindparam("topic"), partitions.c.partition_index == bindparam("index"))
        .values(leader=bindparam("new_leader"), target=None)
    )
    return [(s3stream.catalog.leaders, "_SET_LEADER", kept)]


# -- logs -------------------------------------------------------------------------------------------------------------
@_mutation("lock-not-respected", "a log whose lock is held counts as that of a dead process")
def _lock_not_respected() -> list[Change]:
    return [(wal.file.reading_along.LogReadAlong, "owner_is_out", property(lambda self: True))]


@_mutation("lock-of-another-machine", "a lock that looks free proves a death on another machine too")
def _lock_of_another_machine() -> list[Change]:
    return [(wal.file.reading_along, "is_proof", lambda checkpoint: True)]


@_mutation("seal-ignored", "a log of objects goes on although a slot of it was taken by a seal")
def _seal_ignored() -> list[Change]:
    original = StoreSlots.create

    async def create(self: StoreSlots, key: str, pieces: Any) -> None:
        try:
            await original(self, key, pieces)
        except SlotTaken:
            if key == "owner" or not key[:16].isalnum():
                raise

    return [(StoreSlots, "create", create)]


@_mutation("discarded-before-recovered", "a log is emptied before its records are in objects")
def _discarded_before_recovered() -> list[Change]:
    original = broker.takeover.recover_fenced

    async def recover_fenced(catalog: Any, store: Any, settings: Any, broker_epoch: int, log: Any, owners: Any) -> None:
        chunks = [chunk async for chunk in log.records()]
        await log.discard()
        await original(catalog, store, settings, broker_epoch, _Remembered(log, chunks), owners)

    return [(broker.takeover, "recover_fenced", recover_fenced)]


class _Remembered:
    """A log whose records are only in memory."""

    def __init__(self, log: Any, chunks: list[list[WalRecord]]) -> None:
        self.epoch = log.epoch
        self._chunks = chunks

    async def records(self) -> Any:
        for chunk in self._chunks:
            yield chunk

    async def discard(self) -> None:
        return None


@_mutation("recovery-not-done", "a dead broker counts as recovered although its log was not looked at")
def _recovery_not_done() -> list[Change]:
    return [(broker.takeover, "recover_wal", _nothing_async)]


@_mutation("failed-sync-ignored", "a log goes on as if a failed write had succeeded")
def _failed_sync_ignored() -> list[Change]:
    original = wal.file.segments.SegmentWriter._write_frame

    def write_frame(self: Any, records: Any, sizes: Any, size: int) -> None:
        try:
            original(self, records, sizes, size)
        except OSError:
            self.position += size

    return [(wal.file.segments.SegmentWriter, "_write_frame", write_frame)]


@_mutation("acknowledged-before-durable", "a batch is acknowledged when it is handed to the log")
def _acknowledged_before_durable() -> list[Change]:
    append = FileWal.append

    def append_and_confirm(self: FileWal, pieces: Any) -> int:
        end = append(self, pieces)
        self._loop.call_soon(self._on_durable, end)
        return end

    return [(FileWal, "append", append_and_confirm)]


@_mutation("other-log-recovered", "the log at an address is taken for the one that is meant, whatever its epoch")
def _other_log_recovered() -> list[Change]:
    async def fence_log(url: str, owner: str, epoch: int) -> Any:
        store_url = broker.wal_address._store_url(url)
        if store_url is not None:
            return await broker.wal_address.fence_object_wal(await broker.wal_address._open_slots(store_url), owner)
        return await broker.wal_address.read_wal(url, owner=owner)

    return [(module, "fence_log", fence_log) for module in (broker.failover, broker.takeover)]


@_mutation("claim-ignored", "a recovery is done although another broker has claimed it")
def _claim_ignored() -> list[Change]:
    original = s3stream.catalog.brokers.claim_recovery

    def claim_recovery(*args: Any) -> bool:
        original(*args)
        return True

    return [(s3stream.catalog.brokers, "claim_recovery", claim_recovery)]


# -- partitions -------------------------------------------------------------------------------------------------------
@_mutation("producers-forgotten", "a new leader does not know what producers have sent before")
def _producers_forgotten() -> list[Change]:
    import broker.partitions

    original = broker.partitions.recover_state

    async def recover_state(log_stream: Any, state_stream: Any) -> RecoveredState:
        found = await original(log_stream, state_stream)
        return RecoveredState(found.leader_epochs, ProducerStates(), found.snapshot_offset, found.replayed_size)

    return [(broker.partitions, "recover_state", recover_state)]


@_mutation("handed-over-before-uploaded", "a partition is handed over while its tail is in the log only")
def _handed_over_before_uploaded() -> list[Change]:
    import broker.handoff.mover

    return [(S3Storage, "upload_now", _nothing_async), (broker.handoff.mover, "_is_committed", lambda partition: True)]


@_mutation("not-held-while-handed-over", "a partition that is being handed over still accepts batches")
def _not_held_while_handed_over() -> list[Change]:
    import broker.handoff.mover

    return [(Partitions, "hold", _nothing), (broker.handoff.mover, "_is_committed", lambda partition: True)]


@_mutation("goes-on-without-asking", "a partition goes on here although the catalog did not say whether it is gone")
def _goes_on_without_asking() -> list[Change]:
    from s3stream.catalog.api import CatalogError

    original = Mover._switch

    async def switch(self: Mover, held: Any, moves: Any) -> None:
        hand_over = self._catalog.hand_over

        async def once(*args: Any) -> Any:
            try:
                return await hand_over(*args)
            except CatalogError:
                return {}

        self._hand_over = lambda ready: once(  # type: ignore[method-assign]
            self._node_id, self._broker_epoch, _by_topic(ready)
        )
        await original(self, held, moves)

    return [(Mover, "_switch", switch)]


def _by_topic(keys: Any) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for topic_id, index in keys:
        found.setdefault(topic_id, []).append(index)
    return found


@_mutation("park-forgotten", "requests that wait for a partition on its way are not called")
def _park_forgotten() -> list[Change]:
    from broker.handoff.parking import Parking

    return [(Parking, "release", _nothing)]


@_mutation("partition-stays", "a broker goes on with a partition that the catalog has given to another one")
def _partition_stays() -> list[Change]:
    return [
        (Partitions, "_topic_changed", lambda self, topic: any(self._is_missing(topic, p) for p in topic.partitions))
    ]


REDUNDANT: dict[str, str] = {}
"""Mutations that need not be noticed -> what else keeps the promise."""

__all__ = ["MUTATIONS", "REDUNDANT", "Mutation", "Partition"]
