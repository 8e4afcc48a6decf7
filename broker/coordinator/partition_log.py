"""A coordinator's log over a partition of an internal topic: records in, record batches out, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from broker.coordinator.log import (
    AppendRefused,
    KeyValue,
    LogBatch,
    LogFull,
    LogUnavailable,
    Marker,
    TransactionalWrite,
)
from broker.partition.errors import PartitionError
from broker.partition.partition import Partition
from broker.partition.verification import VerificationGuard
from protocol.records import (
    BatchHeader,
    Codec,
    Record,
    build_batch,
    decode_records,
    iter_batches,
    parse_end_txn_marker,
)
from s3stream.api import StorageError, StorageFull
from wal.api import Buffer

_READ_SIZE = 1 << 20
_READ_UNCOMMITTED = 0


class PartitionLog:
    def __init__(self, partition: Partition, codec: Codec = Codec.NONE) -> None:
        self._partition = partition
        self._codec = codec

    @property
    def end_offset(self) -> int:
        return self._partition.log_end_offset

    @property
    def durable_offset(self) -> int:
        return self._partition.high_watermark

    def append(
        self, records: Sequence[KeyValue], timestamp_ms: int, transaction: TransactionalWrite | None = None
    ) -> int:
        values = [Record(delta, timestamp_ms, key, value) for delta, (key, value) in enumerate(records)]
        if transaction is None:
            batch = build_batch(values, codec=self._codec)
            guard = None
        else:
            batch = build_batch(
                values,
                codec=self._codec,
                producer_id=transaction.producer_id,
                producer_epoch=transaction.producer_epoch,
                transactional=True,
            )
            guard = cast("VerificationGuard | None", transaction.verification)
        with _log_errors():
            return self._partition.append_internal(batch, guard)

    def append_marker(self, marker: Marker, timestamp_ms: int) -> int:
        producer_id, producer_epoch, coordinator_epoch, commit, transaction_version = marker
        with _log_errors():
            return self._partition.append_marker(
                producer_id, producer_epoch, coordinator_epoch, commit, timestamp_ms, transaction_version
            )

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        self._partition.when_high_watermark(end_offset, callback)

    async def read_all(self) -> AsyncIterator[LogBatch]:
        """Waits first until everything that was ever appended is durable: what a failed shard left in flight may
        still come through, and must not be missed."""
        partition = self._partition
        end_offset = partition.log_end_offset
        await self._durable(end_offset)
        offset = partition.log_start_offset
        while offset < end_offset:
            try:
                result = await partition.fetch(offset, _READ_SIZE, _READ_UNCOMMITTED)
            except (PartitionError, StorageError) as error:
                raise LogUnavailable(str(error)) from error
            if result.next_offset <= offset:
                raise LogUnavailable(f"nothing to read at {offset} below the end at {end_offset}")
            for buffer in result.buffers:
                for header, batch in iter_batches(buffer):
                    if (read := _read(header, batch, offset)) is not None:
                        yield read
            offset = result.next_offset

    async def _durable(self, end_offset: int) -> None:
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle(error: Exception | None) -> None:
            if reached.done():
                return
            if error is None:
                reached.set_result(None)
            else:
                reached.set_exception(LogUnavailable(str(error)))

        self.when_durable(end_offset, settle)
        await reached


@contextmanager
def _log_errors() -> Iterator[None]:
    try:
        yield
    except StorageFull as error:
        raise LogFull(str(error)) from error
    except StorageError as error:
        raise LogUnavailable(str(error)) from error
    except PartitionError as error:
        raise AppendRefused(error.code, str(error)) from error


def _read(header: BatchHeader, batch: Buffer, offset: int) -> LogBatch | None:
    """None for a control batch that is no marker."""
    producer_id = header.producer_id if header.is_transactional else -1
    if header.is_control:
        marker = parse_end_txn_marker(batch)
        return None if marker is None else LogBatch(header.base_offset, (), header.producer_id, marker.committed)
    records = [
        ((record.key or b"", record.value), record.timestamp)
        for record in decode_records(batch)
        if record.offset >= offset
    ]
    return LogBatch(header.base_offset, records, producer_id)
