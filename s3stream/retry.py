"""Retrying what a store or the catalog could not do now: for as long as it takes, with growing, jittered pauses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog

from s3stream.catalog.api import CatalogUnreachable
from s3stream.objectstore.api import StoreError
from s3stream.settings import StorageSettings

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class Retry:
    """Every operation passed here is idempotent: an answer that got lost is asked for again."""

    def __init__(self, settings: StorageSettings, rng: random.Random | None = None) -> None:
        self._backoff = settings.retry_backoff_ms / 1000
        self._backoff_max = settings.retry_backoff_max_ms / 1000
        self._rng = rng or random.Random()

    async def __call__(self, operation: str, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `call`. Everything but CatalogUnreachable and StoreError is raised at once."""
        backoff = self._backoff
        while True:
            try:
                return await call(*args, **kwargs)
            except (CatalogUnreachable, StoreError) as error:
                pause = backoff * self._rng.uniform(0.5, 1.0)
                log.warning("storage operation failed, retrying", operation=operation, error=str(error), pause_s=pause)
            await asyncio.sleep(pause)
            backoff = min(backoff * 2, self._backoff_max)


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of what a task group raises: the others are tasks that went down with it."""
    first = errors.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
