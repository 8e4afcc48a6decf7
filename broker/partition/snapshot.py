"""A snapshot of what a partition derives from its log: the bytes of one entry in its `state` stream.

Layout, big-endian::

    0   u8   version (1)
    1   u32  CRC32C of the payload
    5   ...  payload: msgpack array

    payload (version 1)
        0  log offset: the snapshot covers every batch below it
        1  leader epochs: [[epoch, start offset], ...]
        2  producers: [[producer id, epoch, last timestamp ms, batches], ...]
           batches: [[first sequence, last sequence, base offset, timestamp ms], ...], oldest first

A snapshot of an unknown version, or one that fails its checksum, is an error (`SnapshotUnreadable`), never a guess; the
partition can always be derived from the log alone instead.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack
from crc32c import crc32c

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import ProducerEntry, ProducerStates, SequencedBatch
from wal.api import Buffer

VERSION = 1
_HEADER = struct.Struct(">BI")


class SnapshotUnreadable(Exception):
    """Not a snapshot that this version of tailrace can use."""


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """State of a partition at `log_offset`."""

    log_offset: int
    leader_epochs: LeaderEpochs
    producers: ProducerStates


def encode_snapshot(log_offset: int, leader_epochs: LeaderEpochs, producers: ProducerStates) -> bytes:
    payload: bytes = msgpack.packb(
        [
            log_offset,
            leader_epochs.entries(),
            [
                [producer_id, entry.epoch, entry.last_timestamp, entry.batches]
                for producer_id, entry in producers.entries.items()
            ],
        ]
    )
    return _HEADER.pack(VERSION, crc32c(payload)) + payload


def decode_snapshot(data: Buffer) -> PartitionSnapshot:
    """Raises SnapshotUnreadable."""
    if len(data) < _HEADER.size:
        raise SnapshotUnreadable("shorter than its header")
    version, crc = _HEADER.unpack_from(data)
    if version != VERSION:
        raise SnapshotUnreadable(f"version {version}")
    payload = memoryview(data)[_HEADER.size :]
    if crc32c(payload) != crc:
        raise SnapshotUnreadable("checksum does not match")
    try:
        log_offset, epochs, entries = msgpack.unpackb(payload)
        producers = ProducerStates()
        for producer_id, epoch, last_timestamp, batches in entries:
            producers.restore(
                producer_id, ProducerEntry(epoch, [SequencedBatch(*batch) for batch in batches], last_timestamp)
            )
        return PartitionSnapshot(log_offset, LeaderEpochs((epoch, start) for epoch, start in epochs), producers)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SnapshotUnreadable(str(error)) from error
