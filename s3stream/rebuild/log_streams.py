"""What write-ahead logs say about streams, for a catalog that knows less than they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from s3stream.wal_record import decode_record
from wal.api import RecoverableWal


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A log that could be opened: `epoch` is its own, which is that of its broker."""

    node_id: int
    url: str
    wal: RecoverableWal

    @property
    def epoch(self) -> int:
        return self.wal.epoch


class LogStream(NamedTuple):
    """The last opening of a stream that a log knows."""

    epoch: int
    broker_epoch: int
    node_id: int


@dataclass(slots=True)
class LogStreams:
    streams: dict[int, LogStream] = field(default_factory=dict)
    record_count: int = 0


async def read_log_streams(logs: Sequence[FoundLog]) -> LogStreams:
    """Raises WalError, WalRecordInvalid."""
    found = LogStreams()
    for log in logs:
        async for chunk in log.wal.records():
            for each in chunk:
                record = decode_record(each.data)
                known = found.streams.get(record.stream_id)
                if known is None or record.epoch > known.epoch:
                    found.streams[record.stream_id] = LogStream(record.epoch, log.epoch, log.node_id)
                found.record_count += 1
    return found
