"""Slots of a log in an object store: created once, again by the same content, never over another's."""

from __future__ import annotations

import pytest

from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.slots import StoreSlots
from wal.api import Buffer
from wal.object.store import SlotTaken, StoreTrouble


async def test_a_slot_is_created_once() -> None:
    slots = StoreSlots(MemoryStore())
    await slots.create("0", [b"one", b"two"])
    await slots.create("0", [b"onetwo"])
    with pytest.raises(SlotTaken):
        await slots.create("0", [b"other"])


async def test_a_slot_that_was_there_and_is_gone_is_trouble() -> None:
    class Vanishing(MemoryStore):
        async def get(self, key: str) -> Buffer:
            await self.delete_many([key])
            return await super().get(key)

    slots = StoreSlots(Vanishing())
    await slots.create("0", [b"seal"])
    with pytest.raises(StoreTrouble):
        await slots.create("0", [b"other"])
