"""`S3Storage`: all streams of one broker, and the owner of everything that works behind them.

It ties the parts together: the append log (confirming), the uploader, grouped catalog writes (trims and closes), the
cleaner. Its tasks live in one task group from `start` to `close`.

The storage **fails** once and for good (`failed`): the WAL broke, this broker was fenced, or an invariant does not
hold. Then every stream's `on_failed` is called, nothing more is confirmed, appended or committed; confirmed data stays
readable. What was appended is for a recovery of the WAL to find.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence

import structlog

from s3stream.api import (
    InvariantBroken,
    Pressure,
    StorageError,
    Stream,
    StreamClosed,
    StreamFailed,
    StreamFenced,
    Usage,
)
from s3stream.append_log import AppendLog
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import BrokerFenced, Catalog, StreamEpochFenced
from s3stream.cleaner import Cleaner
from s3stream.compaction.compactor import Compactor
from s3stream.compaction.plan import Limits
from s3stream.group_call import GroupCall
from s3stream.log_cache import LogCache
from s3stream.object_ids import ObjectIds
from s3stream.objectstore.api import ObjectStore
from s3stream.range_loader import RangeLoader
from s3stream.retry import Retry, first_error
from s3stream.settings import StorageSettings
from s3stream.stream import S3Stream
from s3stream.upload_pipeline import Offload, UploadPipeline
from s3stream.uploader import Uploader
from wal.api import Wal, WalError

log = structlog.get_logger()

RELOAD_PAUSE_S = 0.02
"""Before the ranges of a stream are read again whose last commit is about to be known here."""


class S3Storage:
    """See `s3stream.api.Storage`. The WAL is open and empty; `start` before use.

    `may_confirm` is asked after each flush and before confirmed offsets move (the broker's lease). `reader`, `catalog`
    and `store` stay the caller's; the WAL is closed by `close`.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        wal: Wal,
        reader: BlockReader,
        node_id: int,
        broker_epoch: int,
        settings: StorageSettings | None = None,
        *,
        may_confirm: Callable[[], bool] = lambda: True,
        rng: random.Random | None = None,
        offload: Offload = asyncio.to_thread,
        limits: Limits | None = None,
    ) -> None:
        settings = settings or StorageSettings()
        self.reader = reader
        self.failed: StorageError | None = None
        """Why nothing can be appended any more; None while all is well."""
        self.on_failed: Callable[[StorageError], None] | None = None
        """Called once, when the storage fails."""
        self._catalog = catalog
        self._wal = wal
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._retry = Retry(settings, rng)
        self._ids = ObjectIds(catalog, node_id, broker_epoch, self._retry, settings)
        self._ranges = RangeLoader(catalog, self._retry)
        self._streams: dict[int, S3Stream] = {}
        self._cache = LogCache(settings.cache_size_max - settings.block_size)
        self._append_log = AppendLog(wal, self._cache, may_confirm, settings)
        pipeline = UploadPipeline(
            catalog,
            store,
            node_id,
            broker_epoch,
            self._ids,
            self._retry,
            settings.uploads_in_flight_max,
            offload,
            settings.upload_split_size,
        )
        self._uploader = Uploader(self._cache, self._append_log, pipeline, self._streams, settings)
        self._trims = GroupCall(self._write_trims)
        self._closes = GroupCall(self._write_closes)
        self.compactor = Compactor(
            catalog,
            store,
            node_id,
            broker_epoch,
            self._ids,
            self._retry,
            settings,
            limits or Limits(),
            reader,
            self._streams,
            self.reload_ranges,
            offload,
            rng,
        )
        self._cleaner = Cleaner(catalog, store, settings, reader.forget, rng)
        self._tasks: asyncio.Task[None] | None = None
        self._letting_go: asyncio.Task[None] | None = None
        self._closing = False
        self._left_nothing = False
        """Everything is in objects and closed: what becomes of the registration does not matter any more."""
        wal.set_listeners(self._append_log.on_durable, self._on_wal_failure)

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register the first object ids and start the background tasks. Raises BrokerFenced."""
        await self._ids.refill()
        self._tasks = asyncio.get_running_loop().create_task(self._run(), name="storage")
        await self._uploader.started.wait()

    async def close(self) -> None:
        """See `Storage.close`. After a failure, or when cancelled, the WAL keeps what is not in objects. Idempotent."""
        if self._closing:
            return
        self._closing = True
        try:
            if self.failed is None:
                await self._close_all()
        finally:
            self._stop(StreamClosed("the storage is closed"))
            if self._tasks is not None:
                self._tasks.cancel()
                await asyncio.wait([self._tasks])
            for stream in list(self._streams.values()):
                self._release(stream)
            if self._letting_go is not None:
                await self._letting_go
            await self._wal.close()
        if self.failed is None:
            # Everything is in objects and closed: fenced here means that somebody noticed before us, or that an answer
            # was lost and the registration has ended.
            with contextlib.suppress(BrokerFenced):
                await self._retry("close broker", self._catalog.close_broker, self._node_id, self._broker_epoch)

    async def _close_all(self) -> None:
        streams = list(self._streams.values())
        for stream in streams:
            stream.refuse(StreamClosed("the storage is closing"))
        await self._uploader.upload_all()
        await self._write_closes({stream.stream_id: stream.epoch for stream in streams})
        self._left_nothing = True

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._uploader.run())
                group.create_task(self._trims.run())
                group.create_task(self._closes.run())
                group.create_task(self._cleaner.run())
                group.create_task(self.compactor.run())
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            if not isinstance(error, BrokerFenced | StorageError):
                log.error("the storage has a defect", exc_info=error)
            self._fail(_as_storage_error(error))

    # -- failure ---------------------------------------------------------------------------------------------

    def lose_lease(self, error: Exception) -> None:
        """The broker's lease is lost for good: nothing will ever be confirmed again, so nobody needs to wait for it."""
        self._fail(_as_storage_error(error))

    def _on_wal_failure(self, error: WalError) -> None:
        self._fail(StreamFailed(str(error)))

    def _fail(self, error: StorageError) -> None:
        if self.failed is not None or self._left_nothing:
            return
        self.failed = error
        log.error("storage failed", reason=type(error).__name__, error=str(error), streams=len(self._streams))
        self._stop(error)
        for stream in list(self._streams.values()):
            stream.fail(error)
        if self._tasks is not None:
            self._tasks.cancel()
        # its lock is what others wait for
        self._letting_go = asyncio.get_running_loop().create_task(self._wal.close(), name="let-wal-go")
        if self.on_failed is not None:
            self.on_failed(error)

    def _stop(self, error: StorageError) -> None:
        self._append_log.fail(error)
        self._uploader.stop(error)
        self._trims.stop(error)
        self._closes.stop(error)

    # -- streams ---------------------------------------------------------------------------------------------

    async def open_streams(self, stream_ids: Sequence[int]) -> list[S3Stream]:
        """Raises StreamFenced; CatalogUnreachable and UnknownStream as the catalog does."""
        self._check()
        for stream_id in stream_ids:
            if stream_id in self._streams:
                raise ValueError(f"stream {stream_id} is open already")
        try:
            infos = await self._catalog.open_streams(self._node_id, self._broker_epoch, stream_ids)
        except StreamEpochFenced as error:
            raise StreamFenced(str(error)) from error
        except BrokerFenced as error:
            self._fail(StreamFenced(str(error)))
            raise StreamFenced(str(error)) from error
        committed = await self._ranges.load_opened(infos)
        self._check()
        opened = [S3Stream(info, ranges, self._append_log, self) for info, ranges in zip(infos, committed, strict=True)]
        self._streams.update((stream.stream_id, stream) for stream in opened)
        return opened

    async def preload_streams(self, stream_ids: Sequence[int]) -> None:
        await self._ranges.preload(stream_ids)

    async def latest_streams(self) -> Container[int]:
        return await self._catalog.latest_streams()

    async def reload_ranges(self, stream: S3Stream) -> bool:
        """Look anew where the stream's committed offsets are: compaction elsewhere may have moved them. True if the
        stream is still open."""
        while True:
            [ranges] = await self._ranges.load({stream.stream_id: stream.start_offset})
            if self._streams.get(stream.stream_id) is not stream:
                return False
            if stream.take_ranges(ranges):
                return True
            # an object that is committed, but not known here yet, is merged with others already
            await asyncio.sleep(RELOAD_PAUSE_S)

    async def commit_tail(self, stream: S3Stream, offset: int) -> None:
        """Return when `stream` is committed up to `offset`; does not wait for its block to be full or old."""
        if stream.tail.block is self._cache.current:
            self._uploader.force()
        await stream.committed.wait(offset)

    async def trim_stream(self, stream: S3Stream, start_offset: int) -> None:
        await self._trims.submit(stream.stream_id, (stream.epoch, start_offset))
        stream.check()

    async def close_stream(self, stream: S3Stream) -> None:
        """A stream that failed is only let go, and the reason raised."""
        if self._streams.get(stream.stream_id) is not stream:
            return
        stream.refuse(StreamClosed(f"stream {stream.stream_id} is closing"))
        try:
            await stream.wait_committed(stream.next_offset)
            await self._closes.submit(stream.stream_id, stream.epoch)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._release(stream)
            raise
        self._release(stream)

    def release_streams(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            if (held := self._streams.get(stream.stream_id)) is stream:
                self._release(held)

    def _release(self, stream: S3Stream) -> None:
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
        stream.closed()

    # -- grouped catalog writes ------------------------------------------------------------------------------

    async def _write_trims(self, starts: Mapping[int, tuple[int, int]]) -> None:
        async def write(stream_ids: Iterable[int]) -> None:
            chosen = {stream_id: starts[stream_id] for stream_id in stream_ids}
            await self._catalog.trim_streams(self._node_id, self._broker_epoch, chosen)

        await self._write("trim streams", write, {stream_id: epoch for stream_id, (epoch, _) in starts.items()})

    async def _write_closes(self, epochs: Mapping[int, int]) -> None:
        async def write(stream_ids: Iterable[int]) -> None:
            chosen = {stream_id: epochs[stream_id] for stream_id in stream_ids}
            await self._catalog.close_streams(self._node_id, self._broker_epoch, chosen)

        await self._write("close streams", write, epochs)

    async def _write(
        self, operation: str, write: Callable[[Iterable[int]], Awaitable[None]], epochs: Mapping[int, int]
    ) -> None:
        """One transaction for all; again without those that turn out to be fenced, which fail."""
        left = list(epochs)
        while left:
            try:
                await self._retry(operation, write, left)
                return
            except BrokerFenced as error:
                self._fail(StreamFenced(str(error)))
                raise StreamFenced(str(error)) from error
            except StreamEpochFenced as error:
                infos = await self._retry("look up streams", self._catalog.stream_infos, left)
                current = {info.stream_id for info in infos if info.open and info.epoch == epochs[info.stream_id]}
                if len(current) == len(left):
                    raise InvariantBroken(f"streams were refused, yet their epochs are current: {error}") from error
                for stream_id in left:
                    stream = self._streams.get(stream_id)
                    if stream is not None and stream_id not in current and stream.epoch == epochs[stream_id]:
                        stream.fail(StreamFenced(f"stream {stream_id} was opened by somebody else"))
                left = [stream_id for stream_id in left if stream_id in current]

    # -- pressure, uploads -----------------------------------------------------------------------------------

    def pressure_level(self) -> float:
        return self._uploader.pressure_level()

    def pressure(self) -> Pressure:
        return self._uploader.pressure()

    def usage(self) -> Usage:
        done = self.compactor.stats
        return Usage(
            self._cache.appended, self.reader.hit_count, self.reader.miss_count, done.bytes_read, done.bytes_written
        )

    def set_pressure_listener(self, listener: Callable[[bool], None]) -> None:
        self._uploader.set_pressure_listener(listener)

    async def upload_now(self) -> None:
        await self._uploader.upload_all()

    def _check(self) -> None:
        if self.failed is not None:
            raise type(self.failed)(*self.failed.args)
        if self._closing:
            raise StreamClosed("the storage is closed")


def _as_storage_error(error: BaseException) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, BrokerFenced):
        return StreamFenced(str(error))
    return InvariantBroken(f"{type(error).__name__}: {error}")
