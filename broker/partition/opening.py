"""How the state of a partition comes back: the newest usable snapshot, then the batch headers after it.

The cost is bounded by the tail: what was appended since the snapshot. Nothing here decodes a record, except those of
control batches: a marker is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import NO_PRODUCER_ID, ProducerStates
from broker.partition.snapshot import PartitionSnapshot, SnapshotUnreadable, decode_snapshot
from protocol.errors import InvalidBatch
from protocol.records import iter_batches, parse_end_txn_marker
from s3stream.api import ObjectCorrupt, OffsetOutOfRange, Stream
from s3stream.objectstore.api import ObjectMissing, RangeInvalid
from s3stream.retry import first_error

log = structlog.get_logger()

REPLAY_CHUNK_SIZE = 1 << 20
_SNAPSHOT_SIZE_MAX = 256 << 20
_UNREADABLE = (ObjectCorrupt, ObjectMissing, RangeInvalid, InvalidBatch, OffsetOutOfRange)
"""Errors of one partition's data. Others are of the store, the catalog or the process, hence of all partitions."""


@dataclass(slots=True)
class RecoveredState:
    """`snapshot_offset` is the log offset of the snapshot used (0: none, and none is needed of an empty log),
    `replayed_size` what was read after it.
    `supersedes`: a later snapshot is of records that were given up; this state is to be saved after it, before others
    have the offsets of those."""

    leader_epochs: LeaderEpochs
    producers: ProducerStates
    snapshot_offset: int
    replayed_size: int
    supersedes: bool = False


def empty_state() -> RecoveredState:
    """The state of a log that nothing was ever appended to."""
    return RecoveredState(LeaderEpochs(), ProducerStates(), 0, 0)


async def recover_states(
    pairs: Sequence[tuple[Stream, Stream]], at_once: asyncio.Semaphore
) -> list[RecoveredState | Exception]:
    """States in the order of `pairs` (log and state), or why one cannot be read. Raises other errors of the storage.

    What never had a record needs no reading. A log that is empty because all of it was given up may have snapshots of
    what it had.
    """
    states: list[RecoveredState | Exception | None] = [
        empty_state() if log_stream.next_offset == state_stream.next_offset == 0 else None
        for log_stream, state_stream in pairs
    ]

    async def recover(position: int) -> None:
        async with at_once:
            try:
                states[position] = await recover_state(*pairs[position])
            except _UNREADABLE as error:
                states[position] = error

    try:
        async with asyncio.TaskGroup() as group:
            for position, state in enumerate(states):
                if state is None:
                    group.create_task(recover(position))
    except ExceptionGroup as errors:
        raise first_error(errors) from None
    return [state for state in states if state is not None]


async def recover_state(log_stream: Stream, state_stream: Stream) -> RecoveredState:
    """The state of a log as of its end. Raises errors of the storage."""
    snapshot, is_newest = await _last_snapshot(log_stream, state_stream)
    if snapshot is None:
        recovered = empty_state()
        offset = log_stream.start_offset
    else:
        recovered = RecoveredState(snapshot.leader_epochs, snapshot.producers, snapshot.log_offset, 0)
        offset = max(snapshot.log_offset, log_stream.start_offset)
    recovered.supersedes = not is_newest
    await _replay(log_stream, offset, recovered)
    recovered.leader_epochs.trim(log_stream.start_offset)
    transactions = recovered.producers.transactions
    transactions.aborted.trim(log_stream.start_offset)
    transactions.advance(log_stream.confirmed_offset)
    return recovered


async def _last_snapshot(log_stream: Stream, state_stream: Stream) -> tuple[PartitionSnapshot | None, bool]:
    """The newest one of what the log has; False if there is a newer one, of what was given up with a lost disk."""
    is_newest = True
    for offset in range(state_stream.next_offset - 1, state_stream.start_offset - 1, -1):
        found = await state_stream.fetch(offset, _SNAPSHOT_SIZE_MAX, offset + 1)
        data = found.buffers[0] if len(found.buffers) == 1 else b"".join(found.buffers)
        try:
            snapshot = decode_snapshot(data)
        except SnapshotUnreadable as error:
            log.warning("snapshot skipped", stream=state_stream.stream_id, offset=offset, error=str(error))
            continue
        if snapshot.log_offset <= log_stream.next_offset:
            return snapshot, is_newest
        is_newest = False
    return None, is_newest


async def _replay(log_stream: Stream, offset: int, recovered: RecoveredState) -> None:
    epochs, producers = recovered.leader_epochs, recovered.producers
    end_offset = log_stream.confirmed_offset
    while offset < end_offset:
        found = await log_stream.fetch(offset, REPLAY_CHUNK_SIZE, end_offset)
        if found.next_offset <= offset:
            raise OffsetOutOfRange(f"stream {log_stream.stream_id} returns nothing at offset {offset}")
        for buffer in found.buffers:
            for header, batch in iter_batches(buffer):
                if header.base_offset < offset and header.last_offset < offset:
                    continue
                epochs.assign(header.partition_leader_epoch, header.base_offset)
                if header.producer_id == NO_PRODUCER_ID:
                    continue
                if not header.is_control:
                    producers.record(
                        header.producer_id,
                        header.producer_epoch,
                        header.base_sequence,
                        header.last_offset_delta + 1,
                        header.base_offset,
                        header.max_timestamp,
                        header.is_transactional,
                    )
                elif (marker := parse_end_txn_marker(batch)) is not None:
                    producers.record_marker(
                        header.producer_id,
                        header.producer_epoch,
                        marker.coordinator_epoch,
                        marker.committed,
                        header.base_offset,
                        header.max_timestamp,
                    )
        recovered.replayed_size += found.size
        offset = found.next_offset
        await asyncio.sleep(0)
