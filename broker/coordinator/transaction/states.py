"""The states of a transactional id: their numbers in the log, their names for tools, and which may follow which.

    Empty ──> Ongoing ──> PrepareCommit ──> CompleteCommit ──> Ongoing, Empty, PrepareAbort
      │          └──────> PrepareAbort ───> CompleteAbort ───> Ongoing, Empty, PrepareAbort
      └─────────────────────┘

PrepareAbort follows Empty and the Complete states when a client of `transaction.version` 2 aborts a transaction that
the coordinator has not heard of: it takes the epoch on. Dead and PrepareEpochFence are names that Kafka has for moments
that do not exist here, where a change is one step; tools may ask for them, and they are never written.
"""

from __future__ import annotations

from enum import IntEnum


class TransactionState(IntEnum):
    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def label(self) -> str:
        """As tools print it."""
        return _LABELS[self]


_S = TransactionState

_LABELS = {state: "".join(word.capitalize() for word in state.name.split("_")) for state in _S}

STATE_BY_LABEL = {label: state for state, label in _LABELS.items()}

PREPARED = frozenset((_S.PREPARE_COMMIT, _S.PREPARE_ABORT))
"""How the transaction ends is decided; markers are being written."""

IDLE = frozenset((_S.EMPTY, _S.COMPLETE_COMMIT, _S.COMPLETE_ABORT))
"""No transaction is under way."""

FOLLOWERS: dict[TransactionState | None, frozenset[TransactionState]] = {
    None: frozenset((_S.EMPTY,)),
    _S.EMPTY: frozenset((_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT)),
    _S.ONGOING: frozenset((_S.ONGOING, _S.PREPARE_COMMIT, _S.PREPARE_ABORT)),
    _S.PREPARE_COMMIT: frozenset((_S.COMPLETE_COMMIT,)),
    _S.PREPARE_ABORT: frozenset((_S.COMPLETE_ABORT,)),
    _S.COMPLETE_COMMIT: frozenset((_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT)),
    _S.COMPLETE_ABORT: frozenset((_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT)),
}
