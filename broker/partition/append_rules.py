"""What a produced batch has to look like for a topic: size, format, timestamps, keys.

Checked once, on the header and the CRC; records are decoded only for topics that need it (compaction wants keys, a bound
on old timestamps wants every one of them) or to name the records at fault.
"""

from __future__ import annotations

from broker.config.topic_config import TopicConfig
from broker.partition.errors import BatchRefused
from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import BatchHeader, decode_records, validate_batches

_LONG_MAX = 2**63 - 1
_RECORD_SIZE_MIN = 7
"""Length, attributes, timestamp delta, offset delta, key length, value length, header count: one byte each."""


class AppendRules:
    """A topic's configs as far as appends are concerned. Immutable."""

    __slots__ = ("_after_max_ms", "_before_max_ms", "_decodes", "_keys_required", "_size_max", "log_append_time")

    def __init__(self, config: TopicConfig) -> None:
        self.log_append_time: bool = config.log_append_time
        self._size_max = config.max_message_bytes
        self._keys_required = config.compacts
        self._after_max_ms = config.message_timestamp_after_max_ms
        self._before_max_ms = config.message_timestamp_before_max_ms
        bounded_before = self._before_max_ms != _LONG_MAX and not self.log_append_time
        self._decodes = self._keys_required or bounded_before

    def check(self, records: memoryview, now_ms: int) -> BatchHeader:
        """The header of the one batch in `records`. Raises BatchRefused."""
        try:
            header = validate_batches(records)
        except InvalidBatch as error:
            raise BatchRefused(error.error_code, error.message) from None
        size = len(records)
        if size > self._size_max:
            raise BatchRefused(
                ErrorCode.MESSAGE_TOO_LARGE, f"the batch has {size} bytes, max.message.bytes is {self._size_max}"
            )
        return header
