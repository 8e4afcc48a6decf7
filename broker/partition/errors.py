"""What a partition refuses, and why.

A partition speaks Kafka's error codes itself: they are the vocabulary of its rules (sequences, epochs, offsets). Errors
of the storage below it stay exceptions of `s3stream.api` and are given their code by `code_of`, at the handlers' edge.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import BatchHeader
from s3stream.api import (
    ObjectCorrupt,
    OffsetOutOfRange,
    StorageError,
    StreamClosed,
    StreamFenced,
)


class PartitionError(Exception):
    """Root: a request that this partition answers with `code`."""

    code: ErrorCode

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message or code.name)
        self.code = code


class BatchRefused(PartitionError):
    """A produced batch breaks a rule; nothing was appended.

    `record_errors` names the records at fault as (index in the batch, message), where single ones are (KIP-467).
    """

    def __init__(self, code: ErrorCode, message: str, record_errors: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(code, message)
        self.record_errors = record_errors


class BatchPostponed(BatchRefused):
    """There is no time for a look at this batch now; its producer sends it again. Answered as a full log is."""

    def __init__(self, header: BatchHeader) -> None:
        super().__init__(ErrorCode.KAFKA_STORAGE_ERROR, "too many batches take long to look at; send it again")
        self.header = header


def code_of(error: Exception) -> ErrorCode:
    """Kafka's code for an error of a partition or of the storage under it.

    A failed or full log is KAFKA_STORAGE_ERROR: retriable, and true to the fact that the outcome may be unknown.
    """
    if isinstance(error, PartitionError):
        return error.code
    if isinstance(error, StreamFenced | StreamClosed):
        return ErrorCode.NOT_LEADER_OR_FOLLOWER
    if isinstance(error, OffsetOutOfRange):
        return ErrorCode.OFFSET_OUT_OF_RANGE
    if isinstance(error, ObjectCorrupt):
        return ErrorCode.CORRUPT_MESSAGE
    if isinstance(error, InvalidBatch):
        return error.error_code
    if isinstance(error, StorageError):
        return ErrorCode.KAFKA_STORAGE_ERROR
    return ErrorCode.UNKNOWN_SERVER_ERROR
