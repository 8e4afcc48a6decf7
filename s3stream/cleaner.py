"""Removes objects that nobody needs: orphans (registered, never committed) and those marked for deletion.

The catalog says which, and waits long enough that no upload and no reader still uses them. The order is: delete from
the store, then forget in the catalog; a crash in between only repeats a deletion. Every broker does it; that they do
the same work twice now and then harms nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from s3stream.catalog.api import Catalog, CatalogError
from s3stream.objectstore.api import ObjectStore, StoreError
from s3stream.settings import StorageSettings

log = structlog.get_logger()


class Cleaner:
    """`on_deleted` is told the key of every object that is gone."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        settings: StorageSettings,
        on_deleted: Callable[[str], None],
        rng: random.Random | None = None,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._on_deleted = on_deleted
        self._rng = rng or random.Random()

    async def run(self) -> None:
        """Until cancelled. The pauses are jittered, so that brokers that started together do not stay together."""
        while True:
            await asyncio.sleep(self._settings.clean_interval_ms / 1000 * self._rng.uniform(0.5, 1.5))
            try:
                await self.clean()
            except (CatalogError, StoreError) as error:
                log.warning("could not remove unneeded objects, will try again", error=str(error))

    async def clean(self) -> int:
        """Remove all there is to remove now; returns how many objects that was. Raises CatalogError, StoreError."""
        removed = 0
        while True:
            found = await self._catalog.abandoned_objects(
                self._settings.abandoned_age_ms, self._settings.clean_objects_max, self._settings.retired_age_ms
            )
            if found:
                keys = [key for _, key in found]
                await self._store.delete_many(keys)
                await self._catalog.forget_objects([object_id for object_id, _ in found])
                for key in keys:
                    self._on_deleted(key)
                removed += len(found)
                log.info("removed unneeded objects", count=len(found))
            if len(found) < self._settings.clean_objects_max:
                return removed
