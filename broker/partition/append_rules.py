"""What a produced batch has to look like for a topic: size, format, timestamps, keys.

Checked once, on the header and the CRC. Records are decoded only where something depends on them: compacted topics want
keys, a bound on old timestamps wants every one of them, a record count that only extreme compression could explain is
counted, and records at fault are named (KIP-467). How much time that may take is the matter of `inspection`.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.topic_config import TopicConfig
from broker.partition.errors import BatchPostponed, BatchRefused
from broker.partition.inspection import InspectionBudget
from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import BatchHeader, Record, validate_batches, validate_records
from protocol.records.validation import RECORD_SIZE_MIN

_LONG_MAX = 2**63 - 1
_NO_TIMESTAMP = -1
_RECORD_ERRORS_SHOWN = 3
RECORDS_CHECKED_MAX = 50_000
"""Records of a batch that are looked at one by one, on the event loop. More is too large: producers split it."""
DECOMPRESSED_SIZE_MAX = 32 << 20
"""Bytes of such a batch, decompressed."""


class AppendRules:
    """A topic's configs as far as appends are concerned. Immutable."""

    __slots__ = (
        "_after_max_ms",
        "_before_max_ms",
        "_decodes",
        "_inspections",
        "_keys_required",
        "_size_max",
        "log_append_time",
    )

    def __init__(self, config: TopicConfig, inspections: InspectionBudget) -> None:
        self._inspections = inspections
        self.log_append_time: bool = config.log_append_time
        self._size_max = config.max_message_bytes
        self._keys_required = config.compacts
        self._after_max_ms = config.message_timestamp_after_max_ms
        self._before_max_ms = config.message_timestamp_before_max_ms
        bounded_before = self._before_max_ms != _LONG_MAX and not self.log_append_time
        self._decodes = self._keys_required or bounded_before

    def check(self, records: memoryview, now_ms: int, zstd: bool = True) -> BatchHeader:
        """The header of the one batch in `records`. Raises BatchRefused, BatchPostponed."""
        size = len(records)
        if size > self._size_max:
            raise BatchRefused(
                ErrorCode.MESSAGE_TOO_LARGE, f"the batch has {size} bytes, max.message.bytes is {self._size_max}"
            )
        try:
            header = validate_batches(records, zstd=zstd)
        except InvalidBatch as error:
            raise BatchRefused(error.error_code, error.message) from None
        if (
            self._decodes
            # less than a byte per record: credible only if the records are there
            or header.record_count > size
            or (header.max_timestamp - now_ms > self._after_max_ms and not self.log_append_time)
        ):
            inspections = self._inspections
            began = inspections.begin()
            if began is None:
                raise BatchPostponed(header)
            try:
                self._check_records(records, header, now_ms)
            finally:
                inspections.end(began, size)
        return header

    def _check_records(self, batch: memoryview, header: BatchHeader, now_ms: int) -> None:
        if header.record_count > RECORDS_CHECKED_MAX:
            credible = header.record_count * RECORD_SIZE_MIN <= DECOMPRESSED_SIZE_MAX
            raise BatchRefused(
                ErrorCode.MESSAGE_TOO_LARGE if credible else ErrorCode.INVALID_RECORD,
                f"{header.record_count} records in a batch, {RECORDS_CHECKED_MAX} are accepted where each is checked",
            )
        try:
            records = validate_records(batch, DECOMPRESSED_SIZE_MAX)
        except InvalidBatch as error:
            # the CRC was right, so that sending it again would not help
            raise BatchRefused(ErrorCode.INVALID_RECORD, error.message) from None
        if self._keys_required:
            _refuse(ErrorCode.INVALID_RECORD, list(_without_key(records)))
        if not self.log_append_time:
            _refuse(ErrorCode.INVALID_TIMESTAMP, list(self._out_of_time(records, now_ms)))
            if header.max_timestamp - now_ms > self._after_max_ms:
                raise BatchRefused(
                    ErrorCode.INVALID_TIMESTAMP, f"the max timestamp {header.max_timestamp} is too far ahead"
                )

    def _out_of_time(self, records: list[Record], now_ms: int) -> Iterator[tuple[int, str]]:
        for index, record in enumerate(records):
            timestamp = record.timestamp
            if timestamp == _NO_TIMESTAMP:
                continue
            if now_ms - timestamp > self._before_max_ms or timestamp - now_ms > self._after_max_ms:
                yield (
                    index,
                    f"Timestamp {timestamp} of message with offset {index} is out of range. The timestamp should be "
                    f"within [{max(0, now_ms - self._before_max_ms)}, {now_ms + self._after_max_ms}]",
                )


def _without_key(records: list[Record]) -> Iterator[tuple[int, str]]:
    for index, record in enumerate(records):
        if record.key is None:
            yield index, "Compacted topic cannot accept message without key."


def _refuse(code: ErrorCode, errors: list[tuple[int, str]]) -> None:
    if errors:
        shown = "; ".join(f"record {index}: {message}" for index, message in errors[:_RECORD_ERRORS_SHOWN])
        raise BatchRefused(
            code,
            f"One or more records have been rejected due to {len(errors)} record errors in total, and only showing the "
            f"first three errors at most: {shown}",
            errors,
        )
