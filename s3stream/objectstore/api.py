"""What an object store promises, whatever it is.

Keys are relative to the store's prefix, `/`-separated, without `.` or `..` parts. Objects are written once and whole,
and never change. `put` returns only when the object is durable; a reader never sees a part of one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from s3stream.api import StorageError
from wal.api import Buffer


class StoreError(StorageError):
    """Root of the object stores' errors. Raised as such where repeating the call cannot help."""


class StoreAddressInvalid(StoreError, ValueError):
    """The URL names no store that could be opened."""


class StoreUnreachable(StoreError):
    """The store does not answer, or refuses this client. The outcome of a write is unknown, the message says why."""


class StoreRefused(StoreUnreachable):
    """No permission, wrong credentials, or no such bucket: nothing was stored, and repeating will hardly help."""


class StoreFull(StoreError):
    """The medium has no room; nothing was stored."""


class ObjectMissing(StoreError):
    """No such object."""


class ObjectExists(StoreError):
    """`put_if_absent` found an object."""


class RangeInvalid(StoreError, ValueError):
    """The range does not lie within the object."""


class ObjectMeta(NamedTuple):
    """One listed object; `modified` in ms since the epoch, by the store's clock."""

    key: str
    size: int
    modified: int


class ObjectStore(Protocol):
    """See the module docstring. Everything raises StoreUnreachable besides what is named."""

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Store the concatenation of `pieces`, replacing what is there. Raises StoreFull."""

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        """As `put`, but raises ObjectExists if the key is taken; of two writers exactly one wins."""

    async def get(self, key: str) -> Buffer:
        """The whole object. Raises ObjectMissing."""

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        """Exactly the bytes [start, end). Raises ObjectMissing, RangeInvalid."""

    async def head(self, key: str) -> int | None:
        """The object's size; None if there is none."""

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Deleting what is not there is no error. After an error some may be gone; repeat it."""

    def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        """Objects whose key begins with `prefix` (a string, not a folder), in no particular order."""

    async def close(self) -> None:
        """Release connections and threads. Idempotent."""
