"""Waiting, in a task, for partitions that are on their way here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.partitions import Partitions


async def arrived(partitions: Partitions, keys: Iterable[tuple[str, int]]) -> None:
    """Return when each of them has arrived, or will not, or is not waited for any longer."""
    waiting = []
    for topic, index in keys:
        settled = asyncio.Event()
        if partitions.park(topic, index, settled.set):
            waiting.append(settled)
    for settled in waiting:
        await settled.wait()
