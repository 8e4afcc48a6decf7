"""Look-ups by time at the precision of records: indexes find the batch, its records are decoded.

`Stream.seek_timestamp` gives a place at or shortly before the batch; from there headers are walked up to the first
batch whose max timestamp is late enough, and only that one is decoded.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from protocol.records import BatchHeader, decode_records, iter_batches
from s3stream.api import Stream

CHUNK_SIZE = 1 << 20
DECODE_INLINE_SIZE = 64 << 10
"""Larger batches are decoded in a thread."""


class TimestampOffset(NamedTuple):
    """A record found by time; `leader_epoch` is that of its batch."""

    timestamp: int
    offset: int
    leader_epoch: int


async def offset_for_timestamp(stream: Stream, timestamp: int, end_offset: int) -> TimestampOffset | None:
    """The first record at or after the start of the log and below `end_offset` whose timestamp is >= `timestamp`."""
    sought = await stream.seek_timestamp(timestamp)
    if sought is None:
        return None
    offset = max(sought, stream.start_offset)
    while offset < end_offset:
        found = await stream.fetch(offset, CHUNK_SIZE, end_offset)
        if found.next_offset <= offset:
            return None
        for buffer in found.buffers:
            for header, batch in iter_batches(buffer):
                if header.max_timestamp < timestamp or header.last_offset < stream.start_offset:
                    continue
                record = await _first_record(header, batch, timestamp, stream.start_offset)
                if record is not None:
                    return record
        offset = found.next_offset
        await asyncio.sleep(0)
    return None


async def _first_record(
    header: BatchHeader, batch: memoryview, timestamp: int, start_offset: int
) -> TimestampOffset | None:
    if header.is_log_append_time:
        return TimestampOffset(
            header.max_timestamp, max(header.base_offset, start_offset), header.partition_leader_epoch
        )
    if len(batch) <= DECODE_INLINE_SIZE:
        records = decode_records(batch)
    else:
        records = await asyncio.to_thread(decode_records, batch)
    for record in records:
        if record.timestamp >= timestamp and record.offset >= start_offset:
            return TimestampOffset(record.timestamp, record.offset, header.partition_leader_epoch)
    return None


async def latest_max_timestamp(stream: Stream) -> int | None:
    """The largest timestamp of any confirmed record: ranges know theirs, the un-uploaded tail is walked by headers."""
    ranges = stream.ranges()
    latest = max((each.max_timestamp for each in ranges), default=-1)
    end_offset = stream.confirmed_offset
    offset = max(stream.start_offset, ranges[-1].end_offset if ranges else stream.start_offset)
    while offset < end_offset:
        found = await stream.fetch(offset, CHUNK_SIZE, end_offset)
        if found.next_offset <= offset:
            break
        for buffer in found.buffers:
            for header, _ in iter_batches(buffer):
                latest = max(latest, header.max_timestamp)
        offset = found.next_offset
        await asyncio.sleep(0)
    return latest if latest >= 0 else None
