"""What a pass over a log knows of its transactions, while it goes through the batches in order. Pure.

Kafka's cleaner keeps the same books: `aborted` come from the partition's index, everything else from the batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class AbortedTransaction(NamedTuple):
    """`last_offset` is that of its marker."""

    producer_id: int
    first_offset: int
    last_offset: int


class SeenTransactions:
    """`on_batch` and `on_marker` are called for every batch of the log, in order of offsets."""

    def __init__(self, aborted: Iterable[AbortedTransaction]) -> None:
        self._to_come = deque(sorted(aborted, key=lambda each: each.first_offset))
        self._aborted: dict[int, AbortedTransaction] = {}
        """Producer id -> its transaction that is aborted, from where that begins on."""
        self._met: set[int] = set()
        """Those of them of whose transaction a batch was met."""
        self._committed: set[int] = set()
        """Producer ids of transactions that are not aborted, of which a batch was met."""

    def on_batch(self, producer_id: int, last_offset: int, is_transactional: bool) -> bool:
        """True if the batch belongs to an aborted transaction."""
        self._begin_up_to(last_offset)
        if not is_transactional:
            return False
        aborted = self._aborted.get(producer_id)
        if aborted is not None and last_offset < aborted.last_offset:
            self._met.add(producer_id)
            return True
        self._committed.add(producer_id)
        return False

    def on_marker(self, producer_id: int, offset: int, committed: bool) -> bool:
        """True if no batch of the transaction that it ends was met: nobody needs the marker any more."""
        self._begin_up_to(offset)
        if committed:
            met = producer_id in self._committed
            self._committed.discard(producer_id)
            return not met
        self._aborted.pop(producer_id, None)
        met = producer_id in self._met
        self._met.discard(producer_id)
        return not met

    def _begin_up_to(self, offset: int) -> None:
        while self._to_come and self._to_come[0].first_offset <= offset:
            begun = self._to_come.popleft()
            self._aborted[begun.producer_id] = begun
            self._met.discard(begun.producer_id)
