"""A snapshot of what a partition derives from its log: the bytes of one entry in its `state` stream.

Layout, big-endian::

    0   u8   version (2)
    1   u32  CRC32C of the payload
    5   ...  payload: msgpack array

    payload (version 2)
        0  log offset: the snapshot covers every batch below it
        1  leader epochs: [[epoch, start offset], ...]
        2  producers: [[producer id, epoch, last timestamp ms, batches, coordinator epoch, first offset of the open
           transaction], ...]; both -1 if there is none
           batches: [[first sequence, last sequence, base offset, timestamp ms], ...], oldest first
        3  aborted transactions: [producer ids, first offsets, last offsets, stable offsets], each a binary of
           big-endian int64, in order of last offsets

    payload (version 1, still read): 0 to 2, producers without coordinator epoch and transaction

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
from broker.partition.transactions import AbortedTransactions
from wal.api import Buffer

VERSION = 2
_WITHOUT_TRANSACTIONS = 1
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
                [
                    producer_id,
                    entry.epoch,
                    entry.last_timestamp,
                    entry.batches,
                    entry.coordinator_epoch,
                    entry.current_txn_first_offset,
                ]
                for producer_id, entry in producers.entries.items()
            ],
            producers.transactions.aborted.columns(),
        ]
    )
    return _HEADER.pack(VERSION, crc32c(payload)) + payload


def decode_snapshot(data: Buffer) -> PartitionSnapshot:
    """Raises SnapshotUnreadable."""
    if len(data) < _HEADER.size:
        raise SnapshotUnreadable("shorter than its header")
    version, crc = _HEADER.unpack_from(data)
    if version not in (_WITHOUT_TRANSACTIONS, VERSION):
        raise SnapshotUnreadable(f"version {version}")
    payload = memoryview(data)[_HEADER.size :]
    if crc32c(payload) != crc:
        raise SnapshotUnreadable("checksum does not match")
    try:
        log_offset, epochs, entries, *rest = msgpack.unpackb(payload)
        producers = ProducerStates()
        for producer_id, epoch, last_timestamp, batches, *transactional in entries:
            sequenced = [SequencedBatch(*batch) for batch in batches]
            producers.restore(producer_id, ProducerEntry(epoch, sequenced, last_timestamp, *transactional))
        producers.restore_transactions(AbortedTransactions.from_columns(rest[0]) if rest else None)
        return PartitionSnapshot(log_offset, LeaderEpochs((epoch, start) for epoch, start in epochs), producers)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SnapshotUnreadable(str(error)) from error
