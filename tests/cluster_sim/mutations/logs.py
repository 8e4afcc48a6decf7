"""Write-ahead logs: locks, seals, recovery, what is durable."""

from __future__ import annotations

from typing import Any

import broker.failover
import broker.takeover
import broker.wal_address
import s3stream.catalog.brokers
import wal.file.reading_along
import wal.file.segments
from s3stream.append_log import AppendLog
from s3stream.objectstore.slots import StoreSlots
from tests.cluster_sim import schedules
from tests.cluster_sim.mutations.catalog import commits_unchecked
from tests.cluster_sim.mutations.registry import SHARED, Change, mutation, nothing_async
from tests.cluster_sim.world import Focus
from wal.api import WalRecord
from wal.file.log import FileWal
from wal.object.store import SlotTaken


@mutation(
    "lock-not-respected",
    "a log whose lock is held counts as that of a dead process",
    Focus(("isolate", "partition"), (), ("shared",)),
)
def _lock_not_respected() -> list[Change]:
    return [(wal.file.reading_along.LogReadAlong, "owner_is_out", property(lambda self: True))]


@mutation(
    "lock-of-another-machine",
    "a lock that looks free proves a death on another machine too",
    Focus(("pause", "kill"), (), ("volume",)),
)
def _lock_of_another_machine() -> list[Change]:
    return [(wal.file.reading_along, "is_proof", lambda checkpoint: True)]


@mutation(
    "seal-ignored",
    "a log of objects goes on although a slot of it was taken by a seal",
    Focus(("pause", "kill", "isolate"), (), ("object",)),
)
def _seal_ignored() -> list[Change]:
    original = StoreSlots.create

    async def create(self: StoreSlots, key: str, pieces: Any) -> None:
        try:
            await original(self, key, pieces)
        except SlotTaken:
            if key == "owner" or not key[:16].isalnum():
                raise

    return [(StoreSlots, "create", create)]


@mutation(
    "discarded-before-recovered",
    "a log is emptied before its records are in objects",
    Focus(wal_kinds=("object",)),
    schedules.recovery_cut_short,
)
def _discarded_before_recovered() -> list[Change]:
    original = broker.takeover.recover_fenced

    async def recover_fenced(
        catalog: Any, store: Any, settings: Any, broker_epoch: int, log: Any, owners: Any, *absent: Any
    ) -> int:
        chunks = [chunk async for chunk in log.records()]
        await log.discard()
        return await original(catalog, store, settings, broker_epoch, _Remembered(log, chunks), owners, *absent)

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


@mutation("recovery-not-done", "a dead broker counts as recovered although its log was not looked at", Focus(("kill",)))
def _recovery_not_done() -> list[Change]:
    return [(broker.takeover, "recover_wal", nothing_async)]


@mutation(
    "failed-sync-ignored",
    "a log goes on as if a failed write had succeeded",
    Focus(("failing_disk", "kill"), (), ("shared",)),
)
def _failed_sync_ignored() -> list[Change]:
    original = wal.file.segments.SegmentWriter._write_frame

    def write_frame(self: Any, records: Any, sizes: Any, size: int) -> None:
        try:
            original(self, records, sizes, size)
        except OSError:
            self.position += size

    return [(wal.file.segments.SegmentWriter, "_write_frame", write_frame)]


@mutation(
    "acknowledged-before-durable",
    "a batch is acknowledged when it is handed to the log",
    SHARED,
    schedules.killed_before_the_flush,
)
def _acknowledged_before_durable() -> list[Change]:
    append, on_durable = FileWal.append, AppendLog.on_durable

    def append_and_confirm(self: FileWal, pieces: Any) -> int:
        end = append(self, pieces)
        self._loop.call_soon(self._on_durable, end)
        return end

    def once(self: AppendLog, position: int) -> None:
        if position > self.confirmed.value:
            on_durable(self, position)

    return [(FileWal, "append", append_and_confirm), (AppendLog, "on_durable", once)]


@mutation(
    "other-log-recovered",
    "the log at an address is taken for the one that is meant, whatever its epoch",
    Focus(wal_kinds=("shared", "volume")),
    schedules.another_log_at_the_address,
)
def _other_log_recovered() -> list[Change]:
    async def fence_log(url: str, owner: str, epoch: int) -> Any:
        store_url = broker.wal_address._store_url(url)
        if store_url is not None:
            return await broker.wal_address.fence_object_wal(await broker.wal_address._open_slots(store_url), owner)
        return await broker.wal_address.read_wal(url, owner=owner)

    return [(module, "fence_log", fence_log) for module in (broker.failover, broker.takeover)]


@mutation(
    "claim-ignored",
    "a recovery is done although another broker has claimed it",
    SHARED,
    schedules.recovery_by_two,
)
def _claim_ignored() -> list[Change]:
    original = s3stream.catalog.brokers.claim_recovery

    def claim_recovery(*args: Any) -> bool:
        original(*args)
        return True

    return [(s3stream.catalog.brokers, "claim_recovery", claim_recovery)]


@mutation(
    "claim-ignored-and-commits-unchecked",
    "a recovery is done although another broker has claimed it, and commits are not checked",
    SHARED,
    schedules.recovery_by_two,
)
def _claim_ignored_and_commits_unchecked() -> list[Change]:
    return _claim_ignored() + commits_unchecked()
