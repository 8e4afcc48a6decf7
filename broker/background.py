"""Work in the background from `start` to `stop`: one task, of which whoever owns it need not know more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any


class BackgroundTask:
    """Runs `work()` once started. What `work` raises is its own affair until `stop`, which raises it."""

    __slots__ = ("_name", "_task", "_work")

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name=self._name)

    def cancel(self) -> None:
        """Without waiting for its end; `stop` still has to be called."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel it and wait until it has ended. Fine to call when it was never started, or twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
