"""Counts what is asked of a store, by kind: for `tailrace storage`, and for what a bill would say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from s3stream.objectstore.api import ObjectMeta, ObjectStore, StoreUnreachable
from wal.api import Buffer

LIST_PAGE_COUNT = 1000
"""Keys that one LIST request returns."""


@dataclass(slots=True)
class StoreMeter:
    """Requests, as they are paid for, since the store was opened; and bytes of bodies."""

    put_count: int = 0
    get_count: int = 0
    head_count: int = 0
    delete_count: int = 0
    list_count: int = 0
    failed_count: int = 0
    """Of all of them, those that the store did not answer or refused."""
    put_size: int = 0
    get_size: int = 0
    since_s: float = field(default_factory=time.monotonic)

    def age_ms(self) -> int:
        return int((time.monotonic() - self.since_s) * 1000)


class MeteredStore:
    """Around the store itself, so that repeated requests count."""

    def __init__(self, store: ObjectStore, meter: StoreMeter) -> None:
        self._store = store
        self._meter = meter

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        self._meter.put_count += 1
        try:
            await self._store.put(key, pieces)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise
        self._meter.put_size += sum(map(len, pieces))

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        self._meter.put_count += 1
        try:
            await self._store.put_if_absent(key, pieces)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise
        self._meter.put_size += sum(map(len, pieces))

    async def get(self, key: str) -> Buffer:
        self._meter.get_count += 1
        try:
            data = await self._store.get(key)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise
        self._meter.get_size += len(data)
        return data

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        self._meter.get_count += 1
        try:
            data = await self._store.get_range(key, start, end)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise
        self._meter.get_size += len(data)
        return data

    async def head(self, key: str) -> int | None:
        self._meter.head_count += 1
        try:
            return await self._store.head(key)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise

    async def delete_many(self, keys: Sequence[str]) -> None:
        self._meter.delete_count += 1
        try:
            await self._store.delete_many(keys)
        except StoreUnreachable:
            self._meter.failed_count += 1
            raise

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        self._meter.list_count += 1
        count = 0
        async for meta in self._store.list(prefix):
            count += 1
            if count % LIST_PAGE_COUNT == 0:
                self._meter.list_count += 1
            yield meta

    async def close(self) -> None:
        await self._store.close()
