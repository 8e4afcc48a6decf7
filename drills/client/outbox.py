"""What a producer has to send to one partition: the rules of an idempotent producer, without I/O or clock.

Batches get their sequence when they are first sent, at most `IN_FLIGHT_MAX` have no answer yet. When one is refused or
its connection breaks, it is sent again under the same sequence; until all such are acknowledged, only the first
batch without an acknowledgement is sent, alone, so that they arrive in order. A pause ends early when the partition
is known to have a newer leader than the one that was tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from protocol.errors import ErrorCode

T = TypeVar("T")

IN_FLIGHT_MAX = 5
"""Kafka's `max.in.flight.requests.per.connection`; more would break the order of an idempotent producer."""
BATCH_SIZE_MAX = 256 * 1024
"""Of the values of one batch; one that is larger goes alone."""

RETRIABLE = frozenset(
    {
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.BROKER_NOT_AVAILABLE,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    }
)
"""What Kafka's clients try again by themselves, without a word to the application."""


class Verdict(Enum):
    """What an answer means for a batch."""

    ACKNOWLEDGED = auto()
    RETRY = auto()
    FAILED = auto()
    """The application hears of it."""


@dataclass(slots=True)
class Batch(Generic[T]):
    """`data` is its encoding. `leader_epoch` is that of the leader that was tried last."""

    items: Sequence[T]
    sequence: int
    data: bytes
    attempts: int = 0
    in_flight: bool = False
    not_before: float = 0.0
    leader_epoch: int = -1


class Outbox(Generic[T]):
    """`encode` makes a batch of items under a base sequence; `size_of` tells the size of an item."""

    def __init__(self, encode: Callable[[Sequence[T], int], bytes], size_of: Callable[[T], int]) -> None:
        self._encode = encode
        self._size_of = size_of
        self._unsent: deque[T] = deque()
        self._window: deque[Batch[T]] = deque()
        self._next_sequence = 0

    @property
    def is_empty(self) -> bool:
        return not self._unsent and not self._window

    def put(self, item: T) -> None:
        self._unsent.append(item)

    def take(self, now: float, leader_epoch: int) -> Batch[T] | None:
        """The next batch to send to a leader of this epoch; it counts as sent. None: nothing may be sent now."""
        batch = self._next(now, leader_epoch)
        if batch is not None:
            batch.attempts += 1
            batch.in_flight = True
            batch.leader_epoch = leader_epoch
        return batch

    def _next(self, now: float, leader_epoch: int) -> Batch[T] | None:
        if any(not batch.in_flight for batch in self._window):
            first = self._window[0]
            waits = now < first.not_before and leader_epoch <= first.leader_epoch
            return None if first.in_flight or waits else first
        if len(self._window) == IN_FLIGHT_MAX or not self._unsent:
            return None
        items = self._fill()
        batch = Batch(items, self._next_sequence, self._encode(items, self._next_sequence))
        self._next_sequence += len(items)
        self._window.append(batch)
        return batch

    def _fill(self) -> list[T]:
        items = [self._unsent.popleft()]
        size = self._size_of(items[0])
        while self._unsent and (size := size + self._size_of(self._unsent[0])) <= BATCH_SIZE_MAX:
            items.append(self._unsent.popleft())
        return items

    def answered(self, batch: Batch[T], error_code: int, now: float, pause_s: Callable[[int], float]) -> Verdict:
        """An error or none; `pause_s` tells the pause after so many failures."""
        verdict = self._verdict(batch, error_code)
        batch.in_flight = False
        if verdict is Verdict.RETRY:
            batch.not_before = now + pause_s(batch.attempts)
        else:
            self._window.remove(batch)
        return verdict

    def _verdict(self, batch: Batch[T], error_code: int) -> Verdict:
        if error_code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            return Verdict.ACKNOWLEDGED
        if error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and batch is not self._window[0]:
            return Verdict.RETRY  # one before it was refused
        return Verdict.RETRY if error_code in RETRIABLE else Verdict.FAILED

    def due(self, now: float) -> float | None:
        """When a pause ends that is all that keeps the next batch back; None if it is something else."""
        if not self._window:
            return None
        first = self._window[0]
        return None if first.in_flight or first.not_before <= now else first.not_before
