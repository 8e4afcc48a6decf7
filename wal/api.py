"""What a write-ahead log promises, whatever it is kept on.

A WAL is an ordered sequence of opaque records, shared by all streams of one broker. Its life has two halves that never
overlap: a log is *recovered* (`RecoverableWal`, from `fence_wal`) or *appended to* (`Wal`, from `open_wal`).

Invariants
----------
* Records become durable strictly in append order: `on_durable(p)` says that every record whose end position is <= p has
  reached stable storage.
* A position only grows, over restarts and epochs of the same log too.
* At most one flush is in flight; what is appended meanwhile is the next one (group commit).
* A failed write or sync is final: `on_failure` is called once, and nothing is ever reported durable after it.
* Trimming is a hint that may be lost by a crash: recovery may return records before the trim position, never fewer than
  those at or after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class WalError(Exception):
    """Root of this package's errors."""


class WalLocked(WalError):
    """Another live process owns this log."""


class WalUnreachable(WalError):
    """The log does not exist, or cannot be reached from here."""


class WalOfAnotherEpoch(WalUnreachable):
    """The log of the epoch that was asked for is not at this address: the one of `epoch` is, and was left alone."""

    def __init__(self, epoch: int, wanted: int) -> None:
        super().__init__(f"the log was appended to under epoch {epoch} last, not {wanted}")
        self.epoch = epoch


class WalCorrupt(WalError):
    """A damaged record that is not a torn tail. The message names file and byte position; nothing was changed."""


class WalForeign(WalError):
    """The log belongs to another cluster."""


class WalNotRecovered(WalError):
    """`open_wal` found records that have not been recovered and discarded."""


class WalFailed(WalError):
    """A write or a sync failed; the log accepts nothing more."""


class WalFull(WalError):
    """The medium has no room. Raised by `Wal.append` before anything is written; it works again once there is room."""


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One recovered record: `data` as it was appended, `position` its start and `end` its end in the log."""

    position: int
    end: int
    data: memoryview


class Wal(Protocol):
    """The appending half. All methods are called from the event loop's thread, callbacks run there."""

    @property
    def durable_position(self) -> int:
        """Everything before this position is on stable storage."""

    @property
    def end_position(self) -> int:
        """The position after the last appended record."""

    @property
    def backlog_size(self) -> int:
        """Bytes appended and not yet durable."""

    def set_listeners(self, on_durable: Callable[[int], None], on_failure: Callable[[WalError], None]) -> None:
        """Set once, before the first append. `on_durable` is called once per flush with the new durable position."""

    def append(self, pieces: Sequence[Buffer]) -> int:
        """Queue one record made of `pieces` (not copied: the caller leaves the buffers unchanged until durable).

        Returns the record's end position. Raises WalFull or WalFailed, and then nothing was queued.
        """

    def trim(self, position: int) -> None:
        """Records that end at or before `position` are no longer needed."""

    async def flush(self) -> None:
        """Wait until everything appended so far is durable. Raises WalFailed."""

    async def close(self) -> None:
        """Flush, write the clean mark, release the lock. Idempotent."""


class RecoverableWal(Protocol):
    """The reading half. What it finds is all that was ever acknowledged if the owner was out when `records` began: by
    `owner_is_out`, or because its lease had run out and the catalog said so to everybody before.
    """

    @property
    def epoch(self) -> int:
        """Under which the log was appended to last (0: never). It tells whose log this is: an address does not."""

    @property
    def owner_is_out(self) -> bool:
        """Who appended under `epoch` provably does so no more: its process has ended, or the log is sealed."""

    def records(self) -> AsyncIterator[list[WalRecord]]:
        """Untrimmed records in order, in chunks of a few MiB. A torn tail is dropped silently; raises WalCorrupt."""

    async def discard(self) -> None:
        """All records have been made durable elsewhere: the log is empty from now on (idempotent). A log on a disk is
        emptied by its own node only; for others this does nothing."""

    async def close(self) -> None:
        """Let go of the log without discarding anything."""
