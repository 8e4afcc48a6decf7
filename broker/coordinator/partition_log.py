"""A coordinator's log over a partition of an internal topic: records in, record batches out, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from broker.coordinator.log import KeyValue, LogFull, LogUnavailable
from broker.partition.errors import PartitionError
from broker.partition.partition import Partition
from protocol.records import Codec, Record, build_batch, decode_records, iter_batches
from protocol.records.header import CONTROL
from s3stream.api import StorageError, StorageFull

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

    def append(self, records: Sequence[KeyValue], timestamp_ms: int) -> int:
        values = [Record(delta, timestamp_ms, key, value) for delta, (key, value) in enumerate(records)]
        batch = build_batch(values, codec=self._codec)
        try:
            return self._partition.append_internal(batch)
        except StorageFull as error:
            raise LogFull(str(error)) from error
        except StorageError as error:
            raise LogUnavailable(str(error)) from error

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        self._partition.when_high_watermark(end_offset, callback)

    async def read_all(self) -> AsyncIterator[list[tuple[KeyValue, int]]]:
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
                    if not header.attributes & CONTROL:
                        yield [
                            ((record.key or b"", record.value), record.timestamp)
                            for record in decode_records(batch)
                            if record.offset >= offset
                        ]
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
