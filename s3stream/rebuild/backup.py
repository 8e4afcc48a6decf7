"""`MetadataBackup`: a broker keeps snapshots of the catalog in the bucket, for the day the database is gone.

After a change of topics, partitions, brokers or configs one is written within `CHANGE_DELAY_S`, or `EFFORT_DELAY` times
what the last one took, but not more often than each `INTERVAL_MIN_S`. A broker that has to write since another one is
gone serves that one's partitions first: of a large catalog a snapshot takes the time that a fail-over needs. What
changes without being told (stream epochs, starts, producer ids) is looked at each `LOOK_INTERVAL_S`, and written if it
differs. While objects are uploaded one is written each `OBJECTS_INTERVAL_MS` at least, which tells a database of before
from the present one. An idle cluster writes nothing. A failure is logged once and tried again: nobody waits for a
snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from s3stream.catalog.api import CatalogError
from s3stream.catalog.schema import OBJECT_ID
from s3stream.catalog.snapshot import Snapshot, encode_snapshot
from s3stream.objectstore.api import ObjectStore, StoreError
from s3stream.rebuild.snapshots import snapshot_key, snapshot_keys
from s3stream.upload_pipeline import Offload

log = structlog.get_logger()

CHANGE_DELAY_S = 0.5
EFFORT_DELAY = 10
INTERVAL_MIN_S = 5.0
LOOK_INTERVAL_S = 60.0
OBJECTS_INTERVAL_MS = 300_000
"""Shorter than an object is kept that was replaced at once (`StorageSettings.retired_age_ms`)."""
KEPT_COUNT = 8
LAST_WRITE_S = 2.0
"""How long a stopping broker tries to write the last one."""


class SnapshotSource(Protocol):
    """`SqlCatalog` is one."""

    async def snapshot(self) -> Snapshot: ...


class MetadataBackup:
    """Does nothing before `follow`."""

    def __init__(
        self, source: SnapshotSource, store: ObjectStore, node_id: int, offload: Offload = asyncio.to_thread
    ) -> None:
        self._offload = offload
        self._source = source
        self._store = store
        self._node_id = node_id
        self._is_writer: Callable[[], bool] = lambda: True
        self._changed = asyncio.Event()
        self._fingerprint = b""
        """Of what was written last."""
        self._written_at_ms = self._written_id = 0
        self._keys: list[str] | None = None
        self._failing = False
        self._stood_by = False
        """Another broker wrote, until now."""
        self._effort_s = 0.0
        """What the last one took."""
        self._task: asyncio.Task[None] | None = None

    def follow(self, subscribe: Callable[[Callable[[object], None]], object], is_writer: Callable[[], bool]) -> None:
        """Begin. `subscribe` takes a callback for changes of topics, partitions, brokers and configs; `is_writer` is
        asked each time: of several brokers one is enough, two do no harm."""
        self._is_writer = is_writer
        subscribe(lambda _: self._changed.set())
        self._changed.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="metadata-backup")

    async def stop(self) -> None:
        """After everything else has stopped: what that changed is written too."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # whoever writes else: of brokers that stop at the same time each may think that another one does
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self._try_to_write()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._changed.wait()
                await asyncio.sleep(max(CHANGE_DELAY_S, min(EFFORT_DELAY * self._effort_s, INTERVAL_MIN_S)))
            if self._stood_by and self._is_writer():
                await asyncio.sleep(INTERVAL_MIN_S)
            self._changed.clear()
            self._stood_by = not self._is_writer()
            if not self._stood_by and await self._try_to_write():
                await asyncio.sleep(INTERVAL_MIN_S)

    async def _try_to_write(self) -> bool:
        """Whether it took an attempt."""
        try:
            is_written = await self.write()
        except (CatalogError, StoreError) as error:
            if not self._failing:
                log.warning("metadata is not backed up into the bucket, will be tried again", error=str(error))
            self._failing = True
            self._changed.set()
            return True
        if self._failing:
            log.info("metadata is backed up again")
        self._failing = False
        return is_written

    async def write(self) -> bool:
        """Write one, if it would differ enough from the last. Raises CatalogError, StoreError."""
        began = asyncio.get_running_loop().time()
        snapshot = await self._source.snapshot()
        fingerprint = await self._offload(snapshot.fingerprint)
        if fingerprint == self._fingerprint and not self._is_behind(snapshot):
            return False
        data = await self._offload(partial(encode_snapshot, snapshot))
        key = snapshot_key(snapshot, self._node_id)
        await self._store.put(key, [data])
        self._effort_s = asyncio.get_running_loop().time() - began
        self._written_at_ms, self._written_id = snapshot.taken_at_ms, snapshot.counter(OBJECT_ID)
        self._fingerprint = fingerprint
        await self._prune(key)
        return True

    def _is_behind(self, snapshot: Snapshot) -> bool:
        """The last one does not know of objects that were uploaded a while ago."""
        age_ms = snapshot.taken_at_ms - self._written_at_ms
        return snapshot.counter(OBJECT_ID) > self._written_id and age_ms >= OBJECTS_INTERVAL_MS

    async def _prune(self, key: str) -> None:
        if self._keys is None:
            self._keys = await snapshot_keys(self._store)
        elif key not in self._keys:
            self._keys.append(key)
        superfluous = self._keys[:-KEPT_COUNT]
        if superfluous:
            await self._store.delete_many(superfluous)
            del self._keys[:-KEPT_COUNT]
