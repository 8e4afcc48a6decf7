"""How a transaction is run: once, or again when the database asked for it.

A transaction is a plain function over a SQLAlchemy `Connection`; it may be called several times, so it must not touch
anything but the connection. A `Backend` runs it once, between BEGIN and COMMIT, and tells what a failure means:

* `RolledBack`: nothing of it is in the database. Always tried again.
* `OutcomeUnknown`: the connection broke during COMMIT. Tried again only if the transaction is idempotent.

Tries are bounded (`ATTEMPTS_MAX`); then the failure surfaces as CatalogUnreachable.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from s3stream.catalog.api import CatalogUnreachable

log = structlog.get_logger()

T = TypeVar("T")
Transaction = Callable[[Connection], T]

ATTEMPTS_MAX = 5
BACK_OFF_MS_FIRST = 10
BACK_OFF_MS_MAX = 500


class RolledBack(Exception):
    """A transient failure before COMMIT, or one that the database answered with a rollback. `str` says why."""


class OutcomeUnknown(Exception):
    """A transient failure during COMMIT. `str` says why."""


class Backend(Protocol):
    """One database. Errors that are not transient come out as CatalogError."""

    name: str
    """For messages; holds no password."""

    async def run(self, transaction: Transaction[T], *, write: bool) -> T:
        """Raises RolledBack, OutcomeUnknown, CatalogError, and what the transaction raises."""

    async def close(self) -> None: ...


class Database:
    """Runs transactions on a backend, with retries."""

    def __init__(self, backend: Backend, jitter: random.Random | None = None) -> None:
        self._backend = backend
        self._jitter = jitter or random.Random()
        self._closed = False

    @property
    def name(self) -> str:
        return self._backend.name

    async def read(self, transaction: Transaction[T]) -> T:
        """A read-only transaction over one snapshot."""
        return await self._run(transaction, write=False, idempotent=True)

    async def write(self, transaction: Transaction[T], *, idempotent: bool) -> T:
        """`idempotent`: doing it again after it was done is harmless, so an unknown outcome is resolved by a retry."""
        return await self._run(transaction, write=True, idempotent=idempotent)

    async def close(self) -> None:
        """Waits for the transactions that run. Closing twice is no error."""
        if not self._closed:
            self._closed = True
            await self._backend.close()

    async def _run(self, transaction: Transaction[T], *, write: bool, idempotent: bool) -> T:
        attempt = 1
        while True:
            if self._closed:
                raise CatalogUnreachable(f"{self._backend.name} is closed")
            try:
                return await self._backend.run(transaction, write=write)
            except (RolledBack, OutcomeUnknown) as failure:
                reason: RolledBack | OutcomeUnknown = failure
            if attempt == ATTEMPTS_MAX or (isinstance(reason, OutcomeUnknown) and not idempotent):
                raise CatalogUnreachable(f"{self._backend.name}: {reason}") from reason
            log.warning("catalog transaction is tried again", database=self.name, reason=str(reason), attempt=attempt)
            back_off_ms = min(BACK_OFF_MS_MAX, BACK_OFF_MS_FIRST * 4 ** (attempt - 1))
            await asyncio.sleep(back_off_ms / 1000 * self._jitter.uniform(0.5, 1.0))
            attempt += 1
