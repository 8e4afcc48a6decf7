"""The contract between a coordinator's state machine and the shard that runs it.

A state machine is pure: no clock, no I/O, no randomness. An operation looks at the state and puts what follows into an
`Outcome`: records, and replies. The shard writes the records and hands each back to `replay`, which is the only place
where persisted state changes. Waiting requests, members that have not settled and timers are soft state: they die with
the shard, and operations change them directly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar, runtime_checkable

from broker.coordinator.log import KeyValue, TransactionalWrite
from broker.coordinator.reply import Reply
from broker.coordinator.timers import Timers


class Record(Protocol):
    """A change of persisted state, of one subject: a group, a transactional id."""

    @property
    def subject(self) -> str: ...

    def encode(self) -> KeyValue: ...


class Outcome:
    """What one operation leads to. `now_ms` is wall-clock time.

    Replies leave once everything that they may tell of is durable; see `shard`. With `transaction`, all records are
    part of that producer's transaction.
    """

    __slots__ = ("now_ms", "records", "replies", "transaction")

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.records: list[Any] = []
        self.replies: list[tuple[Reply, Any]] = []
        self.transaction: TransactionalWrite | None = None

    def write(self, record: Record) -> None:
        self.records.append(record)

    def answer(self, reply: Reply, response: Any) -> None:
        self.replies.append((reply, response))


Event = Callable[[Outcome], None]
"""What a timer leads to. It looks at the state again: much may have happened since it was scheduled."""

ShardTimers = Timers[Event]


class StateMachine(Protocol):
    """Made empty for every load."""

    def decode(self, key: bytes, value: bytes) -> Any | None:
        """The record, or None if it is of a kind that this machine does not keep."""

    def replay(self, record: Any) -> None: ...

    def loaded(self, out: Outcome) -> None:
        """All of the log has been replayed: start timers."""

    def waiting(self) -> list[Reply]:
        """Requests that are parked in the state: the shard refuses them when it goes."""


@runtime_checkable
class TransactionalMachine(Protocol):
    """A state machine whose records may be part of producers' transactions."""

    def replay_pending(self, producer_id: int, record: Any) -> None:
        """The record counts once the producer's transaction is committed."""

    def end_transaction(self, producer_id: int, commit: bool) -> Collection[str]:
        """Apply what is pending of this producer, or forget it; returns the subjects that it concerns."""


M = TypeVar("M", bound=StateMachine)
