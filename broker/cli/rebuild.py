"""`tailrace rebuild-catalog`: a new metadata database out of the bucket, for the day the old one is gone."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from broker.cli import stores
from broker.cli.errors import CommandError

if TYPE_CHECKING:
    from broker.settings import Settings
    from s3stream.rebuild.rebuilding import Rebuilt


def rebuild_catalog(
    config: stores.Config = None,
    node_id: stores.NodeId = None,
    data_dir: stores.DataDir = None,
    objects: stores.Objects = None,
    metadata: stores.Metadata = None,
    wal: stores.Wal = None,
) -> None:
    """Make the metadata database anew from the object store, when it was lost. All brokers must be stopped.

    Writes into a new, empty database only. Records that are in write-ahead logs only are found by the next start.
    """
    flags = {"node_id": node_id, "data_dir": data_dir, "objects": objects, "metadata": metadata, "wal": wal}
    stores.run(_rebuild(stores.settings_of(config, flags)))


async def _rebuild(settings: Settings) -> int:
    from broker.stopped_store import find_logs
    from s3stream.catalog.opening import open_database
    from s3stream.objectstore.opening import open_store
    from s3stream.rebuild.rebuilding import Rebuilder, require_empty
    from s3stream.rebuild.snapshots import bucket_owner, newest_snapshot

    async with AsyncExitStack() as stack:
        store = await open_store(settings.objects_url)
        stack.push_async_callback(store.close)
        found = await newest_snapshot(store)
        if found is None:
            raise CommandError(
                f"there is no copy of the metadata in {settings.objects_url.partition('?')[0]}: nothing can be rebuilt "
                "from it (--objects URL)"
            )
        key, snapshot = found
        owner = await bucket_owner(store)
        if owner is not None and owner != snapshot.cluster_id:
            raise CommandError(
                f"the objects belong to cluster {owner}, the copy of the metadata to {snapshot.cluster_id}"
            )
        database, _ = await open_database(settings.metadata_url, create=True)
        stack.push_async_callback(database.close)
        await database.read(require_empty)
        logs = await find_logs(stack, settings, snapshot)
        print(f"metadata as of {_time(snapshot.taken_at_ms)} ({key}), cluster {snapshot.cluster_id}")
        rebuilt = await Rebuilder(database, store, snapshot, logs, stores.progress_line()).run()
    _show(rebuilt)
    return 0


def _show(rebuilt: Rebuilt) -> None:
    for name in rebuilt.unnamed:
        print(f"topic {name} stands for one that was made after this copy of the metadata: its name is not known")
    for line in rebuilt.lost:
        print(f"missing: {line}")
    for note in rebuilt.notes:
        print(f"note: {note}")
    print(
        f"rebuilt: {rebuilt.topic_count} topics, {rebuilt.stream_count} streams, {rebuilt.object_count} objects; "
        f"{rebuilt.leftover_count} objects do not count; {rebuilt.waiting_count} records in write-ahead logs"
    )
    if rebuilt.lost:
        print("objects are missing: run tailrace fsck --repair before a broker is started", file=sys.stderr)


def _time(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
