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
    try:
        for topic, index in keys:
            settled = asyncio.Event()
            if partitions.park(topic, index, settled.set):
                waiting.append((topic, index, settled))
        for *_, settled in waiting:
            await settled.wait()
    finally:
        for topic, index, settled in waiting:
            partitions.leave_parking(topic, index, settled.set)
