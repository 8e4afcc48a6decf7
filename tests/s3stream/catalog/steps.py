"""Short forms of what most tests begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

from s3stream.catalog.api import BrokerInfo, Catalog, NewObject, NewTopic, StreamRange

HOUR_MS = 3_600_000
NEVER_MS = 10 * HOUR_MS


async def register(
    catalog: Catalog, node_id: int = 1, *, lease_ms: int = HOUR_MS, incarnation: UUID | None = None
) -> BrokerInfo:
    return await catalog.register_broker(
        node_id, f"host{node_id}", 9092, None, f"file:///wal{node_id}", lease_ms, incarnation or uuid4()
    )


async def new_streams(catalog: Catalog, partition_count: int = 1, *, leader: int = 1, name: str = "topic") -> list[int]:
    """The ids of the log and state streams of a new topic."""
    topic = await catalog.create_topic(NewTopic(name, [leader] * partition_count, {}))
    return [i for p in topic.partitions for i in (p.log_stream_id, p.state_stream_id)]


async def open_streams(catalog: Catalog, broker: BrokerInfo, stream_ids: Sequence[int]) -> dict[int, int]:
    """Stream id -> epoch."""
    opened = await catalog.open_streams(broker.node_id, broker.epoch, stream_ids)
    return {stream.stream_id: stream.epoch for stream in opened}


def span(stream_id: int, start: int, end: int) -> StreamRange:
    return StreamRange(stream_id, start, end, size=100 * (end - start), max_timestamp=1_700_000_000_000 + end)


async def commit(
    catalog: Catalog, broker: BrokerInfo, epochs: Mapping[int, int], *ranges: StreamRange, object_id: int | None = None
) -> int:
    """Prepares an object unless told which, commits it, and returns its id."""
    if object_id is None:
        [(object_id, _)] = await catalog.prepare_objects(broker.node_id, broker.epoch, 1)
    size = sum(r.size for r in ranges)
    await catalog.commit_objects(broker.node_id, broker.epoch, [NewObject(object_id, size, ranges)], epochs)
    return object_id


async def live_ids(catalog: Catalog, stream_ids: Sequence[int]) -> list[int]:
    return [found.object_id for found in await catalog.live_objects(stream_ids)]
