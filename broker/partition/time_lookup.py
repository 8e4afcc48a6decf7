"""Look-ups by time at the precision of records: indexes find the batch, its records are decoded.

`Stream.seek_timestamp` gives a place at or shortly before the batch; from there headers are walked up to the first
batch whose max timestamp is late enough, and only that one is decoded.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from protocol.errors import InvalidBatch
from protocol.records import BatchHeader, iter_batches, iter_records
from s3stream.api import Stream

CHUNK_SIZE = 1 << 20
DECODE_INLINE_SIZE = 64 << 10
"""Larger batches, and all that are compressed, are decoded in a thread: their size says little."""
RECORDS_MAX = 1_000_000
"""Batches with more are found, but not the record in them."""
_decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="time-lookup")
"""One: what batches decompress to is in memory once at a time, and other work in threads does not wait for it."""


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
                if not header.record_count:
                    continue  # its records were compacted away
                record = await _first_record(header, batch, timestamp, stream.start_offset)
                if record is not None:
                    return record
        offset = found.next_offset
        await asyncio.sleep(0)
    return None


async def _first_record(
    header: BatchHeader, batch: memoryview, timestamp: int, start_offset: int
) -> TimestampOffset | None:
    if header.is_log_append_time and header.record_count > header.last_offset_delta:
        return TimestampOffset(
            header.max_timestamp, max(header.base_offset, start_offset), header.partition_leader_epoch
        )
    if not header.codec and len(batch) <= DECODE_INLINE_SIZE:
        return _search(header, batch, timestamp, start_offset)
    running = asyncio.get_running_loop()
    return await running.run_in_executor(_decoder, _search, header, batch, timestamp, start_offset)


def _search(header: BatchHeader, batch: memoryview, timestamp: int, start_offset: int) -> TimestampOffset | None:
    if header.record_count > RECORDS_MAX:
        return TimestampOffset(
            header.max_timestamp, max(header.base_offset, start_offset), header.partition_leader_epoch
        )
    for record in iter_records(batch):
        if record.timestamp >= timestamp and record.offset >= start_offset:
            return TimestampOffset(record.timestamp, record.offset, header.partition_leader_epoch)
    return None


async def max_timestamp_offset(stream: Stream) -> TimestampOffset | None:
    """The first confirmed record that has the largest timestamp, or None if there is none.

    Ranges and headers also count what was deleted from the log's beginning, or compacted away: if no record has the
    timestamp that they promise, the ranges that promise most are walked.
    """
    end_offset = stream.confirmed_offset
    ranges = list(stream.ranges())
    in_tail = await _latest(stream, max(stream.start_offset, ranges[-1].end_offset if ranges else 0), end_offset)
    promised = [(each.max_timestamp, each.start_offset, each.end_offset) for each in ranges]
    found = await offset_for_timestamp(stream, max(in_tail, 0, *(each[0] for each in promised)), end_offset)
    if found is not None:
        return found
    known = in_tail
    for timestamp, start_offset, stop in sorted(promised, reverse=True):
        if timestamp <= known:
            break
        known = max(known, await _latest(stream, max(start_offset, stream.start_offset), stop))
    return await offset_for_timestamp(stream, max(known, 0), end_offset)


async def _latest(stream: Stream, offset: int, end_offset: int) -> int:
    """The largest timestamp of [offset, end_offset) by its headers; by records where the log begins amid a batch."""
    latest = -1
    while offset < end_offset:
        found = await stream.fetch(offset, CHUNK_SIZE, end_offset)
        if found.next_offset <= offset:
            break
        for buffer in found.buffers:
            for header, batch in iter_batches(buffer):
                if not header.record_count:
                    continue
                if header.base_offset >= stream.start_offset or header.is_log_append_time:
                    latest = max(latest, header.max_timestamp)
                else:
                    running = asyncio.get_running_loop()
                    kept = running.run_in_executor(_decoder, _latest_kept, header, batch, stream.start_offset)
                    latest = max(latest, await kept)
        offset = found.next_offset
        await asyncio.sleep(0)
    return latest


def _latest_kept(header: BatchHeader, batch: memoryview, start_offset: int) -> int:
    """Of a batch that begins before the log does."""
    if header.record_count <= RECORDS_MAX:
        with suppress(InvalidBatch):
            records = iter_records(batch)
            return max((each.timestamp for each in records if each.offset >= start_offset), default=-1)
    return header.max_timestamp
