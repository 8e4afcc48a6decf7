"""What must stay bounded in a simulated day: live objects of each stream, the bucket, and the memory of the storages.

**Live objects of a stream**, outside of outages and a while after them (`s3stream.compaction` says why):

* those that it shares with others (set objects): per uploader `fan_in - 1` of each generation are not worth rewriting,
  and what came in since the last look, at most as many as one job reads (`sources_max`);
* its own: of a run of small neighbours fewer than `run_count_max` are still there at the next check. A run ends at a
  set object or a large one, and large ones hold at least the last tier's bound each. For a moment it may be as long as
  all runs of a stream together: set objects between them become the stream's own when they are rewritten, or when the
  other streams' parts are taken out, as by a pass by key.

**The bucket**: an object that nobody needs goes within its grace time and three rounds of the cleaner. An object that
the catalog does not know at all is never there.

**Memory**: all that hangs on a storage (ranges, caches, looks, ids, tasks' queues), without the store, the catalog and
the model, in bytes.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from s3stream.catalog.api import StreamRange
from s3stream.compaction.plan import Limits
from s3stream.objectstore.memory import MemoryStore
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from tests.s3stream.sim.catalog import MemoryCatalog

CALM_S = 1800.0
"""After trouble, compaction and the cleaner have so long to catch up."""
HELD_BESIDE = 600_000
"""Bytes of a storage that are neither in its caches nor for its ranges: its parts, queues, pieces on their way."""
RANGE_COST = 800
"""Bytes that a range of a stream costs at most: four numbers, a reference and its object."""
_PASSED_OVER = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.FrameType,
    types.CodeType,
    types.CoroutineType,
    types.AsyncGeneratorType,
    asyncio.AbstractEventLoop,
)


class Bounds:
    def __init__(
        self,
        catalog: MemoryCatalog,
        store: MemoryStore,
        settings: StorageSettings,
        limits: Limits,
        node_count: int,
        clock: Callable[[], float],
    ) -> None:
        self.trouble_until = 0.0
        """Until when there was an outage; infinite while there is one."""
        self.live_max = 0
        """The most live objects that a stream had; small ones of them, shared ones, its longest run of small ones that
        are its own, and what of such a run was still there at the next check."""
        self.small_max = 0
        self.shared_max = 0
        self.run_max = 0
        self.stays_max = 0
        self.stored_max = 0
        self.unneeded_age_max = 0.0
        self.held_max = 0
        self.shared_bound = node_count * ((limits.fan_in - 1) * (limits.generation_max + 1) + limits.sources_max)
        self.grace_s = (settings.abandoned_age_ms + 3 * settings.clean_interval_ms * 1.5) / 1000
        self._retired_grace_s = (settings.retired_age_ms + 3 * settings.clean_interval_ms * 1.5) / 1000
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._unneeded: dict[str, float] = {}
        self._run_of: dict[int, set[StreamRange]] = {}
        """Each stream's longest run at the last check."""

    def check(self, storages: Sequence[S3Storage]) -> None:
        if self._clock() >= self.trouble_until + CALM_S:
            self._check_live_objects()
        else:
            self._run_of = {}
        self._check_bucket()
        self._check_memory(storages)

    def line(self) -> str:
        return (
            f"live objects of a stream at most {self.live_max} (small {self.small_max}, shared {self.shared_max}, "
            f"run {self.run_max}, stays {self.stays_max}), "
            f"in the bucket {len(self._store._objects)}, unneeded for {self.unneeded_age_max:.0f} s at most, "
            f"held by a storage {self.held_max / 1000:.0f} kB"
        )

    def _check_live_objects(self) -> None:
        by_stream: defaultdict[int, list[tuple[StreamRange, bool]]] = defaultdict(list)
        for entry in self._catalog.objects.values():
            if entry.state == "committed":
                for part in filter(self._catalog._is_live, entry.ranges):
                    by_stream[part.stream_id].append((part, entry.shared))
        before, self._run_of = self._run_of, {}
        for stream_id, parts in by_stream.items():
            parts.sort()
            shared = sum(is_shared for _, is_shared in parts)
            run = self._longest_run(parts)
            self._run_of[stream_id] = set(run)
            stays = before.get(stream_id, set()).intersection(run)
            self.live_max = max(self.live_max, len(parts))
            self.small_max = max(self.small_max, sum(part.size < self._limits.tiers[-1][0] for part, _ in parts))
            self.shared_max = max(self.shared_max, shared)
            self.run_max = max(self.run_max, len(run))
            self.stays_max = max(self.stays_max, len(stays))
            assert shared <= self.shared_bound, f"stream {stream_id} has {shared} objects together with others"
            assert len(stays) < self._limits.run_count_max, (
                f"stream {stream_id} goes on having {len(stays)} small objects side by side: {parts}"
            )

    def _longest_run(self, parts: Iterable[tuple[StreamRange, bool]]) -> list[StreamRange]:
        small = self._limits.tiers[-1][0]
        longest: list[StreamRange] = []
        run: list[StreamRange] = []
        for part, is_shared in parts:
            run = [] if is_shared or part.size >= small else [*run, part]
            longest = max(longest, run, key=len)
        return longest

    def _check_bucket(self) -> None:
        now = self._clock()
        known = {entry.key: entry for entry in self._catalog.objects.values()}
        stored = {key: len(data) for key, (data, _) in self._store._objects.items()}
        self.stored_max = max(self.stored_max, len(stored))
        assert stored.keys() <= known.keys(), f"nobody knows of {stored.keys() - known.keys()}"
        needed = set()
        for key, entry in known.items():
            if entry.state == "committed" and any(map(self._catalog._is_live, entry.ranges)):
                needed.add(key)
                assert stored.get(key) == entry.size, f"{key} is needed, and there are {stored.get(key)} bytes of it"
        self._unneeded = {key: self._unneeded.get(key, now) for key in stored.keys() - needed}
        for key, since in self._unneeded.items():
            entry = known[key]
            # what was committed and replaced since the last look began to be unneeded by that
            since = max(since, entry.since if entry.state == "retired" else 0.0)
            if since > self.trouble_until:
                self.unneeded_age_max = max(self.unneeded_age_max, now - since)
            was_committed = entry.state == "committed" or (entry.state == "retired" and entry.since >= 0)
            grace_s = self._retired_grace_s if was_committed else self.grace_s
            late = now > max(since, self.trouble_until) + grace_s
            assert not late, f"{key} ({entry.state}) has not been needed since {since}, it is {now}"

    def _check_memory(self, storages: Iterable[S3Storage]) -> None:
        for storage in storages:
            held = self.held_by(storage)
            self.held_max = max(self.held_max, held)
            ranges = sum(len(stream.committed_ranges) for stream in storage._streams.values())
            caches = self._settings.cache_size_max + 100_000 + 40_000
            bound = caches * 2 + ranges * RANGE_COST + HELD_BESIDE
            assert held <= bound, f"a storage holds {held} bytes, {bound} are its bound"

    def held_by(self, storage: S3Storage) -> int:
        seen = {id(each) for each in (self._catalog, self._store, self._clock.__self__)}  # type: ignore[attr-defined]
        left: list[object] = [storage]
        held = 0
        while left:
            each = left.pop()
            if id(each) in seen or isinstance(each, _PASSED_OVER):
                continue
            seen.add(id(each))
            held += sys.getsizeof(each)
            left += gc.get_referents(each)
        return held

    def check_bucket_is_clean(self) -> None:
        """Nobody is there any more: what the next cleaner leaves is exactly what is needed."""
        self._catalog.fenced.update(entry.node for entry in self._catalog.objects.values())
        self._check_bucket()
        unneeded = {entry.key for entry in self._catalog.objects.values() if entry.state != "committed"}
        committed = {entry.key for entry in self._catalog.objects.values() if entry.state == "committed"}
        assert self._store._objects.keys() - unneeded == committed
