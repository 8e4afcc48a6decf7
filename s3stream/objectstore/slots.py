"""An object store as the object WAL sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from s3stream.objectstore.api import ObjectExists, ObjectMissing, ObjectStore, StoreError
from wal.api import Buffer
from wal.object.store import SlotMissing, SlotTaken, StoreTrouble


class StoreSlots:
    """`wal.object.store.SlotStore` over `store`, which is closed with it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        try:
            await self._store.put_if_absent(key, pieces)
        except ObjectExists:
            try:
                present = await self.read(key)
            except SlotMissing:
                raise StoreTrouble(f"{key} was taken, and is gone") from None
            if present != b"".join(pieces):
                raise SlotTaken(key) from None
        except StoreError as error:
            raise StoreTrouble(str(error)) from error

    async def read(self, key: str) -> Buffer:
        try:
            return await self._store.get(key)
        except ObjectMissing:
            raise SlotMissing(key) from None
        except StoreError as error:
            raise StoreTrouble(str(error)) from error

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        try:
            async for found in self._store.list(prefix):
                yield found.key
        except StoreError as error:
            raise StoreTrouble(str(error)) from error

    async def delete(self, keys: Sequence[str]) -> None:
        try:
            await self._store.delete_many(keys)
        except StoreError as error:
            raise StoreTrouble(str(error)) from error

    async def close(self) -> None:
        await self._store.close()
