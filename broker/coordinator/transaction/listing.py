"""Which transactions a ListTransactions asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from broker.coordinator.transaction.records import TransactionValue
from broker.coordinator.transaction.states import TransactionState


class TransactionFilter(NamedTuple):
    """Empty sets, a negative duration and no pattern let everything through."""

    states: frozenset[TransactionState] = frozenset()
    producer_ids: frozenset[int] = frozenset()
    longer_than_ms: int = -1
    """Since the transaction began. One that did not begin is older than anything, as for Kafka."""
    matches_pattern: Callable[[str], bool] | None = None

    def matches(self, transactional_id: str, value: TransactionValue, now_ms: int) -> bool:
        if self.states and value.state not in self.states:
            return False
        if self.producer_ids and value.producer_id not in self.producer_ids:
            return False
        if self.longer_than_ms >= 0 and now_ms - value.start_ms <= self.longer_than_ms:
            return False
        return self.matches_pattern is None or self.matches_pattern(transactional_id)
