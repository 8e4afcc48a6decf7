"""What the write-ahead logs of a stopped store hold that is in no object.

The rules are those of `s3stream.recovery`: what ends at or below a stream's committed end, was written under a former
stream epoch, or belongs to a stream that is gone, is dropped; what begins exactly at the end is recovered; anything
else keeps a broker from starting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from s3stream.api import StorageError
from s3stream.fsck.findings import Finding
from s3stream.fsck.tables import Tables
from s3stream.wal_record import decode_record
from wal.api import RecoverableWal, WalCorrupt, WalError, WalForeign


@dataclass(slots=True)
class BrokerLog:
    """The log of a registration that waits for its recovery; `wal` is None if it could not be had, for `error`."""

    node_id: int
    epoch: int
    url: str
    wal: RecoverableWal | None
    error: WalError | None = None


@dataclass(slots=True)
class LogTails:
    """Over all logs. `ends`: stream id -> (committed end, end with what the logs hold)."""

    record_count: int = 0
    recoverable_count: int = 0
    recoverable_size: int = 0
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)
    gaps: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Stream id -> offsets between the end of what is in objects and the log's first record after it."""
    unknown: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Streams that are not in the catalog (deleted, most likely) -> (stream epoch, node id, broker epoch)."""


async def read_logs(logs: Iterable[BrokerLog], tables: Tables) -> tuple[LogTails, list[Finding]]:
    """Reads all of each log. Nothing is changed."""
    tails = LogTails()
    findings: list[Finding] = []
    for log in logs:
        if log.wal is None:
            findings.append(_unavailable(log, tables))
            continue
        try:
            findings += await _read(log, log.wal, tables, tails)
        except (WalError, StorageError) as error:
            kind = "log-corrupt" if isinstance(error, WalCorrupt | StorageError) else "log-missing"
            findings.append(Finding(kind, f"log of node {log.node_id}", str(error)))
    return tails, findings


def _unavailable(log: BrokerLog, tables: Tables) -> Finding:
    kind = "log-missing"
    if isinstance(log.error, WalForeign | WalCorrupt):
        kind = "log-foreign" if isinstance(log.error, WalForeign) else "log-corrupt"
    # what follows the committed end is not known: an empty span says where it would begin
    open_here = sorted(
        tables.names.get(stream.stream_id, f"stream {stream.stream_id}") + f" from offset {stream.end_offset}"
        for stream in tables.streams.values()
        if stream.owner == log.epoch and not tables.names.get(stream.stream_id, "").startswith("state of ")
    )
    detail = f"{log.error}; records may be missing in {', '.join(open_here)}" if open_here else str(log.error)
    return Finding(kind, f"log of node {log.node_id} (epoch {log.epoch})", detail)


async def _read(log: BrokerLog, wal: RecoverableWal, tables: Tables, tails: LogTails) -> list[Finding]:
    findings: list[Finding] = []
    stopped: set[int] = set()
    async for chunk in wal.records():
        for each in chunk:
            record = decode_record(each.data)
            tails.record_count += 1
            stream = tables.streams.get(record.stream_id)
            if stream is None:
                former = tails.unknown.get(record.stream_id, (0, 0, 0))
                tails.unknown[record.stream_id] = max(former, (record.epoch, log.node_id, log.epoch))
                continue
            if record.stream_id in stopped or record.epoch < stream.epoch:
                continue
            committed, end = tails.ends.get(record.stream_id, (stream.end_offset, stream.end_offset))
            if record.epoch == stream.epoch and record.end_offset <= end:
                continue
            if record.epoch > stream.epoch or record.base_offset < end:
                stopped.add(record.stream_id)
                findings.append(_ahead(log, tables, record.stream_id, record.epoch, record.base_offset, end))
                continue
            if record.base_offset > end:
                if end > stream.end_offset:
                    # a hole in the log itself: filling up to it would cover what the log has before it
                    tails.gaps.pop(record.stream_id, None)
                    stopped.add(record.stream_id)
                else:
                    tails.gaps[record.stream_id] = (end, record.base_offset)
                span = tables.span(record.stream_id, end, record.base_offset)
                detail = f"the log of node {log.node_id} goes on at {record.base_offset}, what is before ends at {end}"
                findings.append(Finding("log-gap", f"stream {record.stream_id}", detail, (span,)))
                if record.stream_id in stopped:
                    continue
            tails.ends[record.stream_id] = (committed, record.end_offset)
            tails.recoverable_count += 1
            tails.recoverable_size += len(record.batch)
    return findings


def _ahead(log: BrokerLog, tables: Tables, stream_id: int, epoch: int, offset: int, end: int) -> Finding:
    stream = tables.streams[stream_id]
    detail = (
        f"the log of node {log.node_id} has a record at offset {offset} under stream epoch {epoch}, "
        f"the catalog has epoch {stream.epoch} and end {end}"
    )
    return Finding("log-ahead", f"stream {stream_id} ({tables.names.get(stream_id, 'no partition')})", detail)
