"""Where snapshots of the catalog lie in the bucket, and whose the bucket is.

`metadata/owner` holds the cluster's id, in ASCII. It is written before the first object and never changed: a broker
with another catalog, a new and empty one for example, would give out the same object ids again and overwrite objects.

`metadata/snapshots/<time>-<object id>-<node>` are snapshots: the time is ms by the database's clock, the object id the
last that was given out by then (both 16 hex digits). The newest one has the greatest object id, and of those the
greatest time: a new database may have a clock that is behind that of the former one. The last few are kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from s3stream.catalog.api import CatalogError
from s3stream.catalog.objects import object_key
from s3stream.catalog.schema import OBJECT_ID
from s3stream.catalog.snapshot import Snapshot, SnapshotUnreadable, decode_snapshot
from s3stream.objectstore.api import ObjectExists, ObjectMissing, ObjectStore, StoreUnreachable

OWNER_KEY = "metadata/owner"
SNAPSHOT_PREFIX = "metadata/snapshots/"
PROBED_COUNT = 64
"""Brokers take ids some at a time and use them in order, so that not every one after the last of an older database is
used, but some of the next are."""
_KEY = re.compile(SNAPSHOT_PREFIX + r"[0-9a-f]{16}-[0-9a-f]{16}-\d+\Z")


class ForeignBucket(CatalogError):
    """The bucket belongs to another cluster, or to a later state of this one."""


async def claim_bucket(store: ObjectStore, cluster_id: str) -> None:
    """Write the owner, or compare it. Raises ForeignBucket, StoreError."""
    owner = await bucket_owner(store)
    if owner is None:
        try:
            await store.put_if_absent(OWNER_KEY, [cluster_id.encode("ascii")])
            return
        except ObjectExists:
            owner = await bucket_owner(store)
        except StoreUnreachable:
            # some stores know no conditional PUT, which nothing but a log of objects needs
            owner = await bucket_owner(store)
            if owner is None:
                await store.put(OWNER_KEY, [cluster_id.encode("ascii")])
                return
    if owner != cluster_id:
        raise ForeignBucket(
            f"the objects belong to cluster {owner}, the metadata is of cluster {cluster_id}: use that cluster's "
            "database or another prefix; if it was lost, make a new one with tailrace rebuild-catalog"
        )


async def bucket_owner(store: ObjectStore) -> str | None:
    """The cluster id that the bucket names. Raises StoreError."""
    try:
        return bytes(await store.get(OWNER_KEY)).decode("ascii", "replace")
    except ObjectMissing:
        return None


def snapshot_key(snapshot: Snapshot, node_id: int) -> str:
    return f"{SNAPSHOT_PREFIX}{snapshot.taken_at_ms:016x}-{snapshot.counter(OBJECT_ID):016x}-{node_id}"


async def require_newer(store: ObjectStore, last_object_id: Callable[[], Awaitable[int]]) -> None:
    """Refuse a database that is older than what the bucket knows of it: ids would be given out twice, and objects
    overwritten. Snapshots tell of one that is older than some minutes, the objects themselves of what came after it.
    Raises ForeignBucket, StoreError, CatalogError."""
    keys = await snapshot_keys(store)
    known = _object_id_and_time(keys[-1])[0] if keys else 0
    last = await last_object_id()
    if known <= last:
        known = await _last_object_after(store, last)
    # asked after looking: other brokers take ids, upload, and write snapshots meanwhile
    if known > last and known > await last_object_id():
        raise ForeignBucket(
            "the metadata database is older than the objects (restored from a backup?), and brokers would overwrite "
            "some: make a new one with tailrace rebuild-catalog"
        )


async def _last_object_after(store: ObjectStore, object_id: int) -> int:
    """Of the next few objects; 0 if there is none of them."""
    ids = range(object_id + 1, object_id + 1 + PROBED_COUNT)
    sizes = await asyncio.gather(*(store.head(object_key(each)) for each in ids))
    return max((each for each, size in zip(ids, sizes, strict=True) if size is not None), default=0)


async def snapshot_keys(store: ObjectStore) -> list[str]:
    """Oldest first. Raises StoreError."""
    keys = [meta.key async for meta in store.list(SNAPSHOT_PREFIX) if _KEY.match(meta.key)]
    return sorted(keys, key=_object_id_and_time)


def _object_id_and_time(key: str) -> tuple[int, str]:
    time, object_id, _ = key.removeprefix(SNAPSHOT_PREFIX).split("-")
    return int(object_id, 16), time


async def newest_snapshot(store: ObjectStore) -> tuple[str, Snapshot] | None:
    """With its key. Damaged ones are passed over, as long as there is an older one. Raises StoreError, CatalogError."""
    unreadable: SnapshotUnreadable | None = None
    for key in reversed(await snapshot_keys(store)):
        try:
            return key, decode_snapshot(bytes(await store.get(key)))
        except ObjectMissing:
            continue
        except SnapshotUnreadable as error:
            unreadable = unreadable or SnapshotUnreadable(f"{key}: {error}")
    if unreadable is not None:
        raise unreadable
    return None
