"""Verification of transactions before their first batch in a partition (KIP-890).

A transactional batch may open a transaction only if its coordinator knows that the partition takes part: else no marker
would ever end it. The partition hands out a guard, the coordinator is asked, and the batch comes back with the guard. A
marker in between voids the guard, so that an answer about an earlier transaction does not open a later one.

Pure. At most one verification per producer id; concurrent batches of a producer share its guard. The lowest sequence
among them has to be appended first, or a later one could take its place when the first is refused.
"""

from __future__ import annotations

from broker.partition.errors import BatchRefused
from protocol.errors import ErrorCode

_NOT_SEEN = -1


class VerificationGuard:
    """Worth what its identity is: the partition knows the one it gave out last."""

    __slots__ = ()


NOT_REQUIRED = VerificationGuard()
"""Passes always: for `transaction.partition.verification.enable=false`."""


class _Verification:
    __slots__ = ("epoch", "guard", "lowest_sequence", "seen_ms", "supports_epoch_bump")

    def __init__(self, epoch: int, lowest_sequence: int, supports_epoch_bump: bool) -> None:
        self.guard = VerificationGuard()
        self.epoch = epoch
        self.lowest_sequence = lowest_sequence
        self.supports_epoch_bump = supports_epoch_bump
        self.seen_ms = _NOT_SEEN


class Verifications:
    """Those of one partition that no batch or marker has ended, by producer id."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[int, _Verification] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def begin(self, producer_id: int, epoch: int, base_sequence: int, supports_epoch_bump: bool) -> VerificationGuard:
        pending = self._pending.get(producer_id)
        if pending is None:
            pending = self._pending[producer_id] = _Verification(epoch, base_sequence, supports_epoch_bump)
        elif epoch > pending.epoch:
            pending.epoch = epoch
            pending.lowest_sequence = base_sequence
        elif epoch == pending.epoch and base_sequence < pending.lowest_sequence:
            pending.lowest_sequence = base_sequence
        return pending.guard

    def check(self, producer_id: int, guard: VerificationGuard | None) -> None:
        """Raises BatchRefused INVALID_TXN_STATE unless `guard` still stands."""
        if guard is NOT_REQUIRED:
            return
        pending = self._pending.get(producer_id)
        if guard is None or pending is None or pending.guard is not guard:
            raise BatchRefused(
                ErrorCode.INVALID_TXN_STATE, f"producer {producer_id}: the batch is not part of an ongoing transaction"
            )

    def check_sequence(self, producer_id: int, first_sequence: int, has_batches: bool) -> None:
        """A batch that would open the transaction. `has_batches`: earlier ones of this producer are known.

        Raises BatchRefused OUT_OF_ORDER_SEQUENCE_NUMBER.
        """
        pending = self._pending.get(producer_id)
        if pending is None:
            return
        if pending.supports_epoch_bump and first_sequence != 0 and not has_batches:
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: nothing is known of it, sequence 0 was expected and not {first_sequence}",
            )
        if first_sequence > pending.lowest_sequence:
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: sequence {first_sequence} came before {pending.lowest_sequence}",
            )

    def end(self, producer_id: int) -> None:
        """A batch or a marker of this producer's transaction was appended."""
        self._pending.pop(producer_id, None)

    def expire(self, now_ms: int, expiration_ms: int) -> None:
        """Called now and then: forget verifications that were there for `expiration_ms` between two calls."""
        for producer_id, pending in list(self._pending.items()):
            if pending.seen_ms == _NOT_SEEN:
                pending.seen_ms = now_ms
            elif now_ms - pending.seen_ms >= expiration_ms:
                del self._pending[producer_id]
