"""What lies in the bucket, in one listing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from s3stream.catalog.objects import object_key
from s3stream.objectstore.api import ObjectStore
from s3stream.rebuild.snapshots import SNAPSHOT_PREFIX

METADATA_PREFIX = "metadata/"
DAMAGED_PREFIX = "damaged/"
"""Where a repair keeps objects that it replaced, as they were found."""
_KEY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{16})\Z")
_FOREIGN_KEPT = 20


@dataclass(slots=True)
class Bucket:
    """`sizes`: object id -> bytes."""

    sizes: dict[int, int] = field(default_factory=dict)
    kept_count: int = 0
    """Objects below `DAMAGED_PREFIX`."""
    snapshot_count: int = 0
    """Copies of the metadata."""
    unknown_count: int = 0
    unknown_keys: list[str] = field(default_factory=list)
    """Keys that are not tailrace's, the first few of them: a write-ahead log below the same prefix has such."""


def object_id_of(key: str) -> int | None:
    """None if `key` is no object's."""
    match = _KEY.match(key)
    if match is None:
        return None
    object_id = int(match[1], 16)
    return object_id if object_key(object_id) == key else None


async def list_bucket(store: ObjectStore, progress: Callable[[str, int], None]) -> Bucket:
    """Raises StoreError."""
    bucket = Bucket()
    async for meta in store.list(""):
        object_id = object_id_of(meta.key)
        if object_id is not None:
            bucket.sizes[object_id] = meta.size
            if len(bucket.sizes) % 1000 == 0:
                progress("objects listed", len(bucket.sizes))
        elif meta.key.startswith(DAMAGED_PREFIX):
            bucket.kept_count += 1
        elif meta.key.startswith(METADATA_PREFIX):
            bucket.snapshot_count += meta.key.startswith(SNAPSHOT_PREFIX)
        else:
            bucket.unknown_count += 1
            if len(bucket.unknown_keys) < _FOREIGN_KEPT:
                bucket.unknown_keys.append(meta.key)
    return bucket
