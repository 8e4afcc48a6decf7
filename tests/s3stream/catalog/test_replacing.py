"""Compaction's transaction: it moves what is there, all or nothing, and never a single offset."""

from __future__ import annotations

import pytest

from s3stream.catalog.api import (
    BrokerFenced,
    BrokerInfo,
    Catalog,
    NewObject,
    ObjectGone,
    ObjectsReplaced,
    OffsetsNotContinuous,
    StreamEpochFenced,
    StreamRange,
)
from tests.s3stream.catalog.steps import commit, live_ids, new_streams, open_streams, register, span


async def prepared(catalog: Catalog, broker: BrokerInfo) -> int:
    [(object_id, _)] = await catalog.prepare_objects(broker.node_id, broker.epoch, 1)
    return object_id


async def replace(
    catalog: Catalog, broker: BrokerInfo, removed: dict[int, list[StreamRange]], *ranges: StreamRange
) -> int:
    object_id = await prepared(catalog, broker)
    added = [NewObject(object_id, 7, ranges, 1)]
    await catalog.replace_objects(broker.node_id, broker.epoch, removed, added)
    return object_id


async def test_a_part_of_a_set_object_moves_and_the_rest_stays(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    first = await commit(catalog, broker, epochs, span(a, 0, 10), span(b, 0, 5))
    second = await commit(catalog, broker, epochs, span(a, 10, 20), span(b, 5, 6))
    assert [(each.object_id, each.generation) for each in await catalog.set_objects()] == [(first, 0), (second, 0)]
    merged = await replace(catalog, broker, {first: [span(a, 0, 10)], second: [span(a, 10, 20)]}, span(a, 0, 20))
    assert await live_ids(catalog, [a]) == [merged]
    assert await live_ids(catalog, [b]) == [first, second]
    assert await catalog.set_objects() == [], "what is left is of one stream each"
    assert await catalog.abandoned_objects(0, 10) == []
    both = {first: [span(b, 0, 5)], second: [span(b, 5, 6)]}
    await replace(catalog, broker, both, span(b, 0, 6))
    assert [object_id for object_id, _ in await catalog.abandoned_objects(0, 10)] == [first, second]


async def test_what_was_replaced_before_is_not_replaced_again(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    source = await commit(catalog, broker, epochs, span(a, 0, 10), span(b, 0, 5))
    await replace(catalog, broker, {source: [span(a, 0, 10)]}, span(a, 0, 10))
    with pytest.raises(ObjectsReplaced):
        await replace(catalog, broker, {source: [span(a, 0, 10)]}, span(a, 0, 10))
    await replace(catalog, broker, {source: [span(b, 0, 5)]}, span(b, 0, 5))
    with pytest.raises(ObjectsReplaced):
        await replace(catalog, broker, {source: [span(b, 0, 5)]}, span(b, 0, 5))
    await catalog.abandoned_objects(0, 10)
    await catalog.forget_objects([source])
    with pytest.raises(ObjectsReplaced):
        await replace(catalog, broker, {source: [span(b, 0, 5)]}, span(b, 0, 5))


@pytest.mark.parametrize("ranges", [[(0, 19)], [(1, 20)], [(0, 10)], [(0, 21)], [(0, 20), (5, 6)], [(0, 9), (10, 20)]])
async def test_no_offset_gets_lost_or_appears(catalog: Catalog, ranges: list[tuple[int, int]]) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    source = await commit(catalog, broker, epochs, span(a, 0, 20))
    with pytest.raises(OffsetsNotContinuous):
        await replace(catalog, broker, {source: [span(a, 0, 20)]}, *(span(a, start, end) for start, end in ranges))
    assert await live_ids(catalog, [a]) == [source]


async def test_what_was_trimmed_need_not_be_there_any_more(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    source = await commit(catalog, broker, epochs, span(a, 0, 10), span(b, 0, 9))
    await catalog.trim_streams(1, broker.epoch, {a: (1, 10), b: (1, 5)})
    merged = await replace(catalog, broker, {source: [span(a, 0, 10), span(b, 0, 9)]}, span(b, 4, 9))
    assert await live_ids(catalog, [a, b]) == [merged]


async def test_a_fenced_broker_and_a_given_up_object_replace_nothing(catalog: Catalog) -> None:
    broker, other = await register(catalog, 1), await register(catalog, 2)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    source = await commit(catalog, broker, epochs, span(a, 0, 10))
    given_up = await prepared(catalog, other)
    await catalog.abandoned_objects(0, 10)
    new = NewObject(given_up, 1, (span(a, 0, 10),))
    with pytest.raises(ObjectGone):
        await catalog.replace_objects(2, other.epoch, {source: [span(a, 0, 10)]}, [new])
    late = await prepared(catalog, other)
    await catalog.fence_broker(2, other.epoch)
    with pytest.raises(BrokerFenced):
        await catalog.replace_objects(2, other.epoch, {source: [span(a, 0, 10)]}, [NewObject(late, 1, new.ranges)])
    assert await live_ids(catalog, [a]) == [source]


async def test_the_compacted_offset_is_moved_by_who_has_the_stream_open(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    source = await commit(catalog, broker, epochs, span(a, 0, 10))
    removed = {source: [span(a, 0, 10)]}
    new = [NewObject(await prepared(catalog, broker), 1, (span(a, 0, 10),))]
    with pytest.raises(StreamEpochFenced):
        await catalog.replace_objects(1, broker.epoch, removed, new, {a: (epochs[a] + 1, 10)})
    await catalog.replace_objects(1, broker.epoch, removed, new, {a: (epochs[a], 10)})
    assert [info.compacted_offset for info in await catalog.stream_infos([a])] == [10]
    await catalog.replace_objects(1, broker.epoch, {}, [], {a: (epochs[a], 8)})
    assert [info.compacted_offset for info in await catalog.stream_infos([a])] == [8]


async def test_opening_a_stream_reads_no_objects_of_others(catalog: Catalog) -> None:
    broker = await register(catalog)
    streams = await new_streams(catalog, 4)
    epochs = await open_streams(catalog, broker, streams)
    alone = [await commit(catalog, broker, epochs, span(stream_id, 0, 3)) for stream_id in streams]
    together = await commit(catalog, broker, epochs, *(span(stream_id, 3, 4) for stream_id in streams[:2]))
    assert await live_ids(catalog, streams[:1]) == [alone[0], together]
    assert await live_ids(catalog, streams[3:4]) == [alone[3]]
