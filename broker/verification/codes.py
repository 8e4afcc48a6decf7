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
    """How much of KIP-890 a client's request implies."""

    DEFAULT = 0
    ABORTABLE_ERROR = 1
    """Knows TRANSACTION_ABORTABLE."""
    IMPLICIT_ADD = 2
    """Leaves it to the broker to add partitions; its epoch grows with every transaction (TV2)."""


def verdict_for(code: ErrorCode, support: Support) -> ErrorCode:
    """A verdict as clients of this level know it. TRANSACTION_ABORTABLE is new to older ones."""
    if code is ErrorCode.TRANSACTION_ABORTABLE and support is Support.DEFAULT:
        return ErrorCode.INVALID_TXN_STATE
    return code


def produce_refusal(code: ErrorCode, support: Support) -> tuple[ErrorCode, str | None]:
    """Code and message that a producer gets for a verdict that is not NONE."""
    code = verdict_for(code, support)
    if code is ErrorCode.INVALID_TXN_STATE:
        return code, "Partition was not added to the transaction"
    if code in _NOT_VERIFIED or (code is ErrorCode.CONCURRENT_TRANSACTIONS and support is not Support.IMPLICIT_ADD):
        message = f"Unable to verify the partition has been added to the transaction. Underlying error: {code.name}"
        return ErrorCode.NOT_ENOUGH_REPLICAS, message
    return code, None
