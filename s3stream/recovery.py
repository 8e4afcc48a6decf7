"""Brings what a fenced WAL holds, and no object yet, into objects.

For each record of the WAL, in order:

* its stream is gone, or was opened under a later epoch: dropped (the later opening began after a recovery or a close
  that had everything);
* it ends at or below the stream's committed end: dropped (the WAL's trim is only a hint);
* it begins exactly where the stream goes on: uploaded;
* anything else is a hole: InvariantBroken, and nothing after it is uploaded.

Records are uploaded in pieces of bounded size, in order, so memory is bounded whatever the WAL holds. Each committed
piece moves the streams' ends, so a recovery that died is simply run again: it drops what the former one committed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import structlog

from s3stream.api import InvariantBroken
from s3stream.catalog.api import Catalog
from s3stream.log_cache import BATCH_OVERHEAD
from s3stream.object_ids import ObjectIds
from s3stream.objectstore.api import ObjectStore
from s3stream.retry import Retry, first_error
from s3stream.settings import StorageSettings
from s3stream.stream_part import StreamPart
from s3stream.upload_pipeline import Offload, UploadPipeline, UploadResult
from s3stream.wal_record import StreamRecord, decode_record
from wal.api import RecoverableWal

log = structlog.get_logger()

IN_FLIGHT_MAX = 2
"""Pieces that are uploaded at once, beside the one that is being collected."""


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """What a recovery found and did. `end_offsets`: stream id -> committed end of every stream it uploaded from."""

    record_count: int
    recovered_count: int
    recovered_size: int
    dropped_count: int
    end_offsets: dict[int, int]


@dataclass(slots=True)
class _Piece:
    """What becomes one object."""

    records: dict[int, list[StreamRecord]] = field(default_factory=dict)
    size: int = 0

    def add(self, record: StreamRecord) -> None:
        self.records.setdefault(record.stream_id, []).append(record)
        self.size += len(record.batch) + BATCH_OVERHEAD

    def parts(self) -> list[StreamPart]:
        return [
            StreamPart(
                stream_id,
                records[0].epoch,
                [(record.base_offset, record.count, record.max_timestamp, record.batch) for record in records],
                sum(len(record.batch) for record in records),
            )
            for stream_id, records in sorted(self.records.items())
        ]


async def recover_wal(
    wal: RecoverableWal,
    catalog: Catalog,
    store: ObjectStore,
    node_id: int,
    broker_epoch: int,
    *,
    settings: StorageSettings | None = None,
    rng: random.Random | None = None,
    offload: Offload = asyncio.to_thread,
) -> RecoveryResult:
    """Upload and commit, as broker (`node_id`, `broker_epoch`), what is only in `wal`.

    Afterwards the caller tells the catalog (`recovered`) and then empties the log (`discard`), in this order. Store and
    catalog that do not answer are waited for. Raises InvariantBroken, WalRecordInvalid, WalCorrupt, BrokerFenced; what
    was committed until then stays committed.
    """
    settings = settings or StorageSettings()
    retry = Retry(settings, rng)
    ids = ObjectIds(catalog, node_id, broker_epoch, retry, settings)
    pipeline = UploadPipeline(catalog, store, node_id, broker_epoch, ids, retry, IN_FLIGHT_MAX, offload)
    reader = _Reader(wal, catalog, retry, settings.block_size)
    finished = asyncio.Semaphore(IN_FLIGHT_MAX)
    try:
        async with asyncio.TaskGroup() as group:
            async for piece in reader.pieces():
                await finished.acquire()

                async def prepare(piece: _Piece = piece) -> Sequence[StreamPart]:
                    return piece.parts()

                async def committed(result: UploadResult) -> None:
                    finished.release()
                    if result.fenced_stream_ids:
                        log.warning("streams were opened during their recovery", count=len(result.fenced_stream_ids))

                pipeline.submit(group, prepare, committed)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    result = reader.result()
    log.info(
        "write-ahead log recovered",
        records=result.record_count,
        recovered=result.recovered_count,
        recovered_bytes=result.recovered_size,
        streams=len(result.end_offsets),
    )
    return result


class _Reader:
    """Decides about each record; yields pieces to upload."""

    def __init__(self, wal: RecoverableWal, catalog: Catalog, retry: Retry, piece_size: int) -> None:
        self._wal = wal
        self._catalog = catalog
        self._retry = retry
        self._piece_size = piece_size
        self._streams: dict[int, tuple[int, int] | None] = {}
        """Stream id -> (epoch, the offset it goes on at); None: there is no such stream any more."""
        self._end_offsets: dict[int, int] = {}
        self._record_count = 0
        self._recovered_count = 0
        self._recovered_size = 0

    def result(self) -> RecoveryResult:
        return RecoveryResult(
            self._record_count,
            self._recovered_count,
            self._recovered_size,
            self._record_count - self._recovered_count,
            self._end_offsets,
        )

    async def pieces(self) -> AsyncIterator[_Piece]:
        piece = _Piece()
        async for chunk in self._wal.records():
            records = [decode_record(found.data) for found in chunk]
            await self._look_up({record.stream_id for record in records} - self._streams.keys())
            self._record_count += len(records)
            for record in records:
                if not self._is_missing(record):
                    continue
                piece.add(record)
                if piece.size >= self._piece_size:
                    yield piece
                    piece = _Piece()
        if piece.size:
            yield piece

    async def _look_up(self, stream_ids: set[int]) -> None:
        if not stream_ids:
            return
        infos = await self._retry("look up streams", self._catalog.stream_infos, sorted(stream_ids))
        self._streams.update(dict.fromkeys(stream_ids))
        self._streams.update({info.stream_id: (info.epoch, info.end_offset) for info in infos})

    def _is_missing(self, record: StreamRecord) -> bool:
        known = self._streams[record.stream_id]
        if known is None:
            return False
        epoch, end_offset = known
        if record.epoch < epoch or (record.epoch == epoch and record.end_offset <= end_offset):
            return False
        if record.epoch > epoch or record.base_offset != end_offset:
            raise InvariantBroken(
                f"stream {record.stream_id} goes on at offset {end_offset} under epoch {epoch}, "
                f"but the log's next record begins at {record.base_offset} under epoch {record.epoch}"
            )
        self._streams[record.stream_id] = (epoch, record.end_offset)
        self._end_offsets[record.stream_id] = record.end_offset
        self._recovered_count += 1
        self._recovered_size += len(record.batch)
        return True
