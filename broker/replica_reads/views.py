"""All views of this broker: made when a reader comes, kept up to date, let go when nobody reads.

The catalog is asked for all views at once that want to be looked at, one call at a time. Memory is bounded: the ranges
of all views together (`RANGES_MAX`, about 200 bytes each), the least recently read view goes first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from broker.replica_reads.view import ReplicaView
from s3stream.api import StorageError
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import Catalog, CatalogError, CatalogUnreachable, PartitionInfo, TopicInfo
from s3stream.committed_stream import CommittedStream, load_committed

FRESH_S = 2.0
"""A view that is read is looked at in the catalog this often, for what was deleted ..."""
AT_END_S = 0.2
"""... and at its end not more often than this."""
LOAD_TIMEOUT_S = 3.0
"""A catalog that takes longer is not waited for: the reader goes on with what is known, or back to the leader."""
IDLE_S = 60.0
RANGES_MAX = 200_000
VIEWS_MAX = 4_096

Key = tuple[bytes, int]
"""Topic id, partition."""


class ReplicaViews:
    """See the module docstring."""

    def __init__(self, catalog: Catalog, reader: BlockReader) -> None:
        self._catalog = catalog
        self._reader = reader
        self._views: OrderedDict[Key, ReplicaView] = OrderedDict()
        self._wanted: dict[ReplicaView, bool] = {}
        """Views to look at with the next call -> whether anew."""
        self._loading = asyncio.Lock()
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._views)

    def get(self, topic: TopicInfo, info: PartitionInfo) -> ReplicaView:
        """The view of a partition, as its metadata is now."""
        key = (topic.topic_id.bytes, info.index)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = ReplicaView(topic.name, info, self._reader, self)
        else:
            self._views.move_to_end(key)
            view.leader, view.leader_epoch = info.leader, info.leader_epoch
        loop = asyncio.get_running_loop()
        view.used_at = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S, self._let_idle_go)
        return view

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for view in self._views.values():
            view.close()
        self._views.clear()

    # -- looking into the catalog -----------------------------------------------------------------------------------
    async def keep_fresh(self, view: ReplicaView) -> None:
        is_loaded = all(stream.info is not None for stream in _streams(view))
        if is_loaded and asyncio.get_running_loop().time() - view.refreshed_at < FRESH_S:
            return
        try:
            await self._load(view, anew=False)
        except (CatalogError, StorageError):
            if not is_loaded:
                raise

    async def refresh(self, view: ReplicaView, *, anew: bool = False) -> bool:
        if not anew and asyncio.get_running_loop().time() - view.refreshed_at < AT_END_S:
            return False
        await self._load(view, anew)
        return True

    async def _load(self, view: ReplicaView, anew: bool) -> None:
        self._wanted[view] = anew or self._wanted.get(view, False)
        async with self._loading:
            if view not in self._wanted:
                return  # a call that began after this one was made has had it
            wanted, self._wanted = self._wanted, {}
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    await load_committed(
                        self._catalog,
                        [stream for each in wanted for stream in _streams(each)],
                        {stream for each, is_anew in wanted.items() if is_anew for stream in _streams(each)},
                    )
            except TimeoutError:
                raise CatalogUnreachable("the catalog does not answer in time") from None
            finally:
                for each in wanted:
                    each.refreshed_at = now
                    if each.closed:
                        each.close()
        self._bound()

    # -- letting go -------------------------------------------------------------------------------------------------
    def _bound(self) -> None:
        count = sum(each.range_count for each in self._views.values())
        while self._views and (count > RANGES_MAX or len(self._views) > VIEWS_MAX):
            count -= self._let_go(next(iter(self._views)))

    def _let_idle_go(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time() - IDLE_S
        for key in [key for key, view in self._views.items() if view.used_at <= before]:
            self._let_go(key)
        self._sweep = loop.call_later(IDLE_S, self._let_idle_go) if self._views else None

    def _let_go(self, key: Key) -> int:
        view = self._views.pop(key)
        count = view.range_count
        view.close()
        return count


def _streams(view: ReplicaView) -> list[CommittedStream]:
    return [view.log, view.state] if view.needs_state else [view.log]
