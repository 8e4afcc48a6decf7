"""The history of transactional clients: what producers tried in each transaction, and what readers saw.

The transactional sister of `bench.history`: a history is what the *clients* know, and every value carries the id of its
send. `bench.transaction_checker` judges it. All times are of one clock that all clients share.

A producer is one incarnation of a program: a restart is another producer, under the same transactional id or not. One
history may be of several topics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """What a producer knows of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """For certain: the abort was answered, or a commit was never begun."""
    UNKNOWN = "unknown"
    """Either way, but as a whole and the same for every reader: no answer came, or the producer died in the commit."""


class Isolation(Enum):
    COMMITTED = "read_committed"
    UNCOMMITTED = "read_uncommitted"


class Place(NamedTuple):
    """A partition."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(slots=True)
class Send:
    """One record sent. `offset` is that of the acknowledgement, `source` the id of the input that it is a copy of."""

    id: str
    place: Place
    source: str | None = None
    offset: int | None = None


@dataclass(slots=True)
class Transaction:
    """The transactions of one producer, and the sends in each, stand in the order in which they were made."""

    producer: str
    sends: list[Send] = field(default_factory=list)
    outcome: Outcome = Outcome.UNKNOWN
    commit_began: float | None = None
    """When the commit was called, if it was and the time is known."""


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll returned of one partition, as (offset, id); `position` is where it left the reader."""

    records: tuple[tuple[int, str], ...]
    position: int
    ended: float


@dataclass(slots=True)
class Reading:
    """What one reader saw of one partition between two seeks.

    `start` is the position it began at, None if it is not known. A `complete` reading went from the log's start to its
    end when nobody wrote any more and no transaction was open.
    """

    reader: str
    place: Place
    isolation: Isolation
    start: int | None = None
    polls: list[Poll] = field(default_factory=list)
    complete: bool = False

    def records(self) -> Iterator[tuple[int, str]]:
        for poll in self.polls:
            yield from poll.records

    def covered(self) -> range:
        """The offsets it has judged: whatever it did not return of them is not to be read, in its eyes."""
        start = self.start
        if start is None:
            start = next((offset for offset, _ in self.records()), 0)
        return range(start, max((poll.position for poll in self.polls), default=start))


@dataclass(frozen=True, slots=True)
class Copying:
    """Every record of the topic `source` is copied to the topic `target`, exactly once."""

    source: str
    target: str


@dataclass(slots=True)
class History:
    transactions: list[Transaction] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    copying: Copying | None = None
    """Needs complete read_committed readings of both topics."""
