"""Waiting for what no event tells of: a look at it every now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_S = 0.02


async def until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
