"""From a URL to a store."""

from __future__ import annotations

from s3stream.objectstore.api import ObjectStore, StoreAddressInvalid
from s3stream.objectstore.memory import MemoryStore


async def open_store(url: str) -> ObjectStore:
    """Open the store at `url`. Raises StoreAddressInvalid."""
    if url.startswith("memory:"):
        return MemoryStore()
    raise StoreAddressInvalid(f"no object store for {url!r}")
