"""What clients are told when a verification fails, by what their version understands.

Clients retry the request for codes that they know to be retriable; a code of the coordinator's, which a producer does
not expect from the leader of a partition, becomes NOT_ENOUGH_REPLICAS: retried by every version, without asking for
metadata first.
"""

from __future__ import annotations

from enum import IntEnum

from protocol.errors import ErrorCode

_NOT_VERIFIED = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)


class Support(IntEnum):
    """How much of KIP-890 the version of a client's request implies."""

    DEFAULT = 0
    ABORTABLE_ERROR = 1
    """Knows TRANSACTION_ABORTABLE."""
    IMPLICIT_ADD = 2
    """Leaves it to the broker to add partitions; its epoch grows with every transaction (TV2)."""


def produce_support(version: int) -> Support:
    """Of a version of Produce."""
    return Support.IMPLICIT_ADD if version >= 12 else Support.ABORTABLE_ERROR if version >= 11 else Support.DEFAULT


def offset_commit_support(version: int) -> Support:
    """Of a version of TxnOffsetCommit."""
    return Support.IMPLICIT_ADD if version >= 5 else Support.ABORTABLE_ERROR if version >= 4 else Support.DEFAULT


def _verdict_for(code: ErrorCode, support: Support) -> ErrorCode:
    """TRANSACTION_ABORTABLE is new to older clients."""
    if code is ErrorCode.TRANSACTION_ABORTABLE and support is Support.DEFAULT:
        return ErrorCode.INVALID_TXN_STATE
    return code


def produce_refusal(code: ErrorCode, support: Support) -> tuple[ErrorCode, str | None]:
    """Code and message that a producer gets for a verdict that is not NONE."""
    code = _verdict_for(code, support)
    if code is ErrorCode.INVALID_TXN_STATE:
        return code, "Partition was not added to the transaction"
    if code in _NOT_VERIFIED or (code is ErrorCode.CONCURRENT_TRANSACTIONS and support is not Support.IMPLICIT_ADD):
        message = f"Unable to verify the partition has been added to the transaction. Underlying error: {code.name}"
        return ErrorCode.NOT_ENOUGH_REPLICAS, message
    return code, None


def offset_commit_refusal(code: ErrorCode, support: Support) -> ErrorCode:
    """What TxnOffsetCommit gets for a verdict that is not NONE: to be tried again without looking for the group's
    coordinator, where it is not final."""
    code = _verdict_for(code, support)
    concurrent = code is ErrorCode.CONCURRENT_TRANSACTIONS and support is not Support.IMPLICIT_ADD
    return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if concurrent or code in _NOT_VERIFIED else code
