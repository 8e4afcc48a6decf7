"""What the object WAL needs of an object store. Keys are relative to the log's prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from wal.api import Buffer


class SlotTaken(Exception):
    """Another writer's object lies at this key."""


class SlotMissing(Exception):
    """No object lies at this key."""


class StoreTrouble(Exception):
    """The store does not answer or refuses; the outcome of a write is not known. The message says why."""


class SlotStore(Protocol):
    """Everything raises StoreTrouble besides what is named."""

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Store an object durably where there is none; returns also if this very content is there already.

        Raises SlotTaken.
        """

    async def read(self, key: str) -> Buffer:
        """Raises SlotMissing."""

    def keys(self, prefix: str) -> AsyncIterator[str]:
        """All keys that begin so, in no particular order; whatever was created before the call is there."""

    async def delete(self, keys: Sequence[str]) -> None:
        """What is not there is no error."""

    async def close(self) -> None:
        """Release connections. Idempotent."""
