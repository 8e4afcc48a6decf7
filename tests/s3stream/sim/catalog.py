"""The catalog's streams and objects in dictionaries: the rules of `s3stream.catalog.api` without a database."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from s3stream.catalog.api import (
    BrokerFenced,
    CatalogError,
    NewObject,
    ObjectGone,
    ObjectInfo,
    ObjectsReplaced,
    OffsetsNotContinuous,
    SetObject,
    StreamEpochFenced,
    StreamInfo,
    StreamRange,
    UnknownStream,
)
from s3stream.catalog.listing import LATEST_COUNT


@dataclass(slots=True)
class _Object:
    key: str
    node: tuple[int, int]
    state: str = "prepared"
    size: int = 0
    ranges: list[StreamRange] = field(default_factory=list)
    generation: int = 0
    since: float = 0.0
    """When it came into its state, by the catalog's clock."""

    @property
    def shared(self) -> bool:
        return len({part.stream_id for part in self.ranges}) > 1


class MemoryCatalog:
    """What the stream core uses of a `Catalog`. With a `clock` (in seconds) its objects have ages."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self.cluster_id = "simulated"
        self.brokers_: dict[int, int] = {}
        self.fenced: set[tuple[int, int]] = set()
        self.streams: dict[int, StreamInfo] = {}
        self.owners: dict[int, tuple[int, int]] = {}
        self.objects: dict[int, _Object] = {}
        self.commit_count = 0
        self.replace_count = 0
        self._next_epoch = 1
        self._next_object = 1
        self._next_stream = 1

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    def create_streams(self, count: int) -> list[int]:
        first = self._next_stream
        self._next_stream += count
        for stream_id in range(first, first + count):
            self.streams[stream_id] = StreamInfo(stream_id, 0, False, None, 0, 0)
        return list(range(first, first + count))

    def delete_stream(self, stream_id: int) -> None:
        del self.streams[stream_id]

    def register(self, node_id: int) -> int:
        """A new epoch; the former registration is fenced."""
        if node_id in self.brokers_:
            self.fenced.add((node_id, self.brokers_[node_id]))
        self.brokers_[node_id] = self._next_epoch
        self._next_epoch += 1
        return self.brokers_[node_id]

    def fence(self, node_id: int) -> int:
        """The broker's registration ends; returns its epoch."""
        epoch = self.brokers_.pop(node_id)
        self.fenced.add((node_id, epoch))
        return epoch

    def steal(self, stream_id: int) -> None:
        """Somebody else opens the stream."""
        info = self.streams[stream_id]
        self.streams[stream_id] = replace(info, epoch=info.epoch + 1, node_id=99)

    def _check_broker(self, node_id: int, broker_epoch: int) -> None:
        if self.brokers_.get(node_id) != broker_epoch:
            raise BrokerFenced(f"broker {node_id} epoch {broker_epoch} is fenced")

    async def open_streams(self, node_id: int, broker_epoch: int, stream_ids: Sequence[int]) -> list[StreamInfo]:
        self._check_broker(node_id, broker_epoch)
        for stream_id in stream_ids:
            if stream_id not in self.streams:
                raise UnknownStream(str(stream_id))
            if self.streams[stream_id].open and self.owners[stream_id] != (node_id, broker_epoch):
                raise StreamEpochFenced(f"stream {stream_id} is open at {self.owners[stream_id]}")
        for stream_id in stream_ids:
            info = self.streams[stream_id]
            self.streams[stream_id] = replace(
                info,
                epoch=info.epoch + 1,
                open=True,
                node_id=node_id,
                end_offset=max(info.end_offset, info.start_offset),
            )
            self.owners[stream_id] = (node_id, broker_epoch)
        return [self.streams[stream_id] for stream_id in stream_ids]

    def _check_streams(self, epochs: Mapping[int, int]) -> None:
        for stream_id, epoch in epochs.items():
            info = self.streams.get(stream_id)
            if info is not None and info.epoch != epoch:
                raise StreamEpochFenced(f"stream {stream_id} has epoch {info.epoch}, not {epoch}")

    async def close_streams(self, node_id: int, broker_epoch: int, epochs: Mapping[int, int]) -> None:
        self._check_broker(node_id, broker_epoch)
        self._check_streams(epochs)
        for stream_id in epochs.keys() & self.streams.keys():
            self.streams[stream_id] = replace(self.streams[stream_id], open=False, node_id=None)

    async def close_broker(self, node_id: int, broker_epoch: int) -> None:
        self._check_broker(node_id, broker_epoch)
        if any(info.open and self.owners[info.stream_id] == (node_id, broker_epoch) for info in self.streams.values()):
            raise CatalogError("streams are still open")
        del self.brokers_[node_id]
        self.fenced.add((node_id, broker_epoch))  # what it prepared is given up

    async def trim_streams(self, node_id: int, broker_epoch: int, starts: Mapping[int, tuple[int, int]]) -> None:
        self._check_broker(node_id, broker_epoch)
        self._check_streams({stream_id: epoch for stream_id, (epoch, _) in starts.items()})
        for stream_id in starts.keys() & self.streams.keys():
            if not self.streams[stream_id].open:
                raise StreamEpochFenced(f"stream {stream_id} is closed")
        for stream_id in starts.keys() & self.streams.keys():
            info = self.streams[stream_id]
            self.streams[stream_id] = replace(info, start_offset=max(info.start_offset, starts[stream_id][1]))

    async def stream_infos(self, stream_ids: Sequence[int]) -> list[StreamInfo]:
        return [self.streams[stream_id] for stream_id in stream_ids if stream_id in self.streams]

    def _is_live(self, part: StreamRange) -> bool:
        info = self.streams.get(part.stream_id)
        return info is not None and part.end_offset > info.start_offset

    async def live_objects(self, stream_ids: Sequence[int], after: int = 0) -> list[ObjectInfo]:
        wanted = set(stream_ids)
        infos = []
        for object_id, found in self.objects.items():
            ranges = tuple(part for part in found.ranges if part.stream_id in wanted and self._is_live(part))
            if found.state == "committed" and ranges and object_id > after:
                infos.append(ObjectInfo(object_id, found.key, found.size, tuple(sorted(ranges)), found.shared))
        return infos

    async def latest_streams(self) -> set[int]:
        uploaded = [
            found
            for found in self.objects.values()
            if found.state == "committed" and found.shared and found.generation == 0
        ]
        return {part.stream_id for found in uploaded[-LATEST_COUNT:] for part in found.ranges}

    async def set_objects(self) -> list[SetObject]:
        return [
            SetObject(
                object_id,
                found.key,
                found.size,
                found.node[0],
                found.generation,
                min(part.stream_id for part in found.ranges),
                max(part.stream_id for part in found.ranges),
                int((self._now() - found.since) * 1000),
            )
            for object_id, found in self.objects.items()
            if found.state == "committed" and found.shared
        ]

    async def object_ranges(self, object_ids: Sequence[int]) -> list[ObjectInfo]:
        infos = []
        for object_id in object_ids:
            found = self.objects.get(object_id)
            if found is not None and found.state == "committed":
                ranges = tuple(sorted(filter(self._is_live, found.ranges)))
                infos.append(ObjectInfo(object_id, found.key, found.size, ranges, found.shared))
        return infos

    async def replace_objects(
        self,
        node_id: int,
        broker_epoch: int,
        removed: Mapping[int, Sequence[StreamRange]],
        added: Sequence[NewObject],
        compacted: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        self._check_broker(node_id, broker_epoch)
        states = {self.objects[new.object_id].state if new.object_id in self.objects else None for new in added}
        if "committed" in states:
            return
        if states != {"prepared"}:
            raise ObjectGone(str(added))
        for stream_id, (epoch, _) in (compacted or {}).items():
            if self.streams[stream_id].epoch != epoch or self.owners[stream_id] != (node_id, broker_epoch):
                raise StreamEpochFenced(str(stream_id))
        for object_id, parts in removed.items():
            found = self.objects.get(object_id)
            if found is None or found.state != "committed" or not set(found.ranges).issuperset(parts):
                raise ObjectsReplaced(str(object_id))
        before = self._offsets(part for parts in removed.values() for part in parts)
        after = self._offsets(part for new in added for part in new.ranges)
        if before != after:
            raise OffsetsNotContinuous(f"{before} would become {after}")
        for object_id, parts in removed.items():
            found = self.objects[object_id]
            found.ranges = [part for part in found.ranges if part not in parts]
            if not any(map(self._is_live, found.ranges)):
                found.state, found.since = "retired", self._now()
        for new in added:
            found = self.objects[new.object_id]
            found.state, found.size, found.ranges = "committed", new.size, list(new.ranges)
            found.generation, found.since = new.generation, self._now()
        for stream_id, (_, offset) in (compacted or {}).items():
            self.streams[stream_id] = replace(self.streams[stream_id], compacted_offset=offset)
        self.replace_count += 1

    def _offsets(self, parts: Iterable[StreamRange]) -> dict[tuple[int, int], int]:
        """How often each live offset is there: where that number changes, and by how much."""
        edges: Counter[tuple[int, int]] = Counter()
        for part in filter(self._is_live, parts):
            edges[part.stream_id, max(part.start_offset, self.streams[part.stream_id].start_offset)] += 1
            edges[part.stream_id, part.end_offset] -= 1
        return {edge: change for edge, change in edges.items() if change}

    async def prepare_objects(self, node_id: int, broker_epoch: int, count: int) -> list[tuple[int, str]]:
        self._check_broker(node_id, broker_epoch)
        prepared = []
        for _ in range(count):
            object_id, self._next_object = self._next_object, self._next_object + 1
            self.objects[object_id] = _Object(f"objects/{object_id}", (node_id, broker_epoch), since=self._now())
            prepared.append((object_id, self.objects[object_id].key))
        return prepared

    async def commit_objects(
        self, node_id: int, broker_epoch: int, added: Sequence[NewObject], epochs: Mapping[int, int]
    ) -> None:
        self._check_broker(node_id, broker_epoch)
        for new in added:
            if new.object_id not in self.objects or self.objects[new.object_id].state == "retired":
                raise ObjectGone(str(new.object_id))
        if any(self.objects[new.object_id].state == "committed" for new in added):
            return
        self._check_streams(epochs)
        kept = [part for new in added for part in new.ranges if part.stream_id in self.streams]
        ends = {part.stream_id: self.streams[part.stream_id].end_offset for part in kept}
        for part in kept:
            if part.start_offset != ends[part.stream_id]:
                raise OffsetsNotContinuous(f"{part} does not begin at {ends[part.stream_id]}")
            ends[part.stream_id] = part.end_offset
        for stream_id, end_offset in ends.items():
            self.streams[stream_id] = replace(self.streams[stream_id], end_offset=end_offset)
        for new in added:
            found = self.objects[new.object_id]
            found.state, found.size, found.since = "committed", new.size, self._now()
            found.ranges = [part for part in new.ranges if part.stream_id in self.streams]
        self.commit_count += 1

    def recovered(self, node_id: int, epoch: int) -> None:
        for stream_id, owner in self.owners.items():
            if owner == (node_id, epoch) and stream_id in self.streams:
                self.streams[stream_id] = replace(self.streams[stream_id], open=False, node_id=None)

    async def abandoned_objects(
        self, older_than_ms: int, limit: int, retired_older_than_ms: int | None = None
    ) -> list[tuple[int, str]]:
        now = self._now()
        found = []
        for object_id, entry in self.objects.items():
            if entry.state == "prepared" and (entry.node in self.fenced or self._is_old(entry, older_than_ms)):
                entry.state, entry.since = "retired", -math.inf  # nobody reads what was never committed
            elif entry.state == "committed" and not any(map(self._is_live, entry.ranges)):
                entry.state, entry.since = "retired", now
            if entry.state == "retired" and (self._clock is None or self._is_old(entry, retired_older_than_ms or 0)):
                found.append((object_id, entry.key))
        return found[:limit]

    def _is_old(self, entry: _Object, age_ms: int) -> bool:
        return self._clock is not None and (self._now() - entry.since) * 1000 >= age_ms

    async def forget_objects(self, object_ids: Sequence[int]) -> None:
        for object_id in object_ids:
            self.objects.pop(object_id, None)
