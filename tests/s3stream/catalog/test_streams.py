from __future__ import annotations

import pytest

from s3stream.catalog.api import Catalog, StreamEpochFenced, UnknownStream
from tests.s3stream.catalog.steps import commit, new_streams, open_streams, register, span


async def test_every_opening_gives_the_next_epoch_in_the_order_asked(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    opened = await catalog.open_streams(1, broker.epoch, [b, a])
    assert [(s.stream_id, s.epoch, s.open, s.node_id) for s in opened] == [(b, 1, True, 1), (a, 1, True, 1)]
    [again] = await catalog.open_streams(1, broker.epoch, [b])
    assert again.epoch == 2
    assert [s.epoch for s in await catalog.stream_infos([a, b])] == [1, 2]


async def test_what_another_live_broker_has_open_is_not_opened_nor_anything_beside_it(catalog: Catalog) -> None:
    holder, other = await register(catalog, 1), await register(catalog, 2)
    a, b = await new_streams(catalog)
    await open_streams(catalog, holder, [a])
    with pytest.raises(StreamEpochFenced):
        await catalog.open_streams(2, other.epoch, [b, a])
    assert [s.epoch for s in await catalog.stream_infos([a, b])] == [1, 0]


async def test_what_a_dead_broker_left_open_is_not_opened_before_it_is_recovered(catalog: Catalog) -> None:
    dead = await register(catalog, 1, lease_ms=0)
    a, _ = await new_streams(catalog)
    await open_streams(catalog, dead, [a])
    for heir in (await register(catalog, 2), await register(catalog, 1)):
        with pytest.raises(StreamEpochFenced):
            await catalog.open_streams(heir.node_id, heir.epoch, [a])


async def test_a_stream_is_handed_over_by_closing_it(catalog: Catalog) -> None:
    first, second = await register(catalog, 1), await register(catalog, 2)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, first, [a])
    await catalog.close_streams(1, first.epoch, epochs)
    await catalog.close_streams(1, first.epoch, epochs)
    assert await open_streams(catalog, second, [a]) == {a: 2}
    with pytest.raises(StreamEpochFenced):
        await catalog.close_streams(1, first.epoch, epochs)


async def test_nobody_closes_or_trims_what_another_broker_has_open(catalog: Catalog) -> None:
    first, second = await register(catalog, 1), await register(catalog, 2)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, first, [a])
    with pytest.raises(StreamEpochFenced):
        await catalog.close_streams(2, second.epoch, epochs)
    with pytest.raises(StreamEpochFenced):
        await catalog.trim_streams(2, second.epoch, {a: (1, 5)})


async def test_deleted_streams_are_skipped_unless_they_are_to_be_opened(catalog: Catalog) -> None:
    broker = await register(catalog)
    kept = await new_streams(catalog, name="kept")
    gone = await new_streams(catalog, name="gone")
    epochs = await open_streams(catalog, broker, kept + gone)
    [topic_id] = [i for i, t in (await catalog.load_changes(0)).topics.items() if t is not None and t.name == "gone"]
    await catalog.delete_topic(topic_id)
    assert [s.stream_id for s in await catalog.stream_infos(gone + kept)] == kept
    await catalog.trim_streams(1, broker.epoch, dict.fromkeys(kept + gone, (1, 7)))
    await catalog.close_streams(1, broker.epoch, epochs)
    with pytest.raises(UnknownStream):
        await catalog.open_streams(1, broker.epoch, gone)


async def test_a_start_never_goes_back(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    await commit(catalog, broker, epochs, span(a, 0, 100))
    for start in (40, 20):
        await catalog.trim_streams(1, broker.epoch, {a: (1, start)})
    [info] = await catalog.stream_infos([a])
    assert (info.start_offset, info.end_offset) == (40, 100)


async def test_a_stream_trimmed_beyond_its_committed_end_begins_there_when_opened_next(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    await open_streams(catalog, broker, [a])
    await catalog.trim_streams(1, broker.epoch, {a: (1, 50)})
    [info] = await catalog.stream_infos([a])
    assert (info.start_offset, info.end_offset) == (50, 0)
    [reopened] = await catalog.open_streams(1, broker.epoch, [a])
    assert (reopened.start_offset, reopened.end_offset) == (50, 50)


async def test_thousands_of_streams_open_and_close_at_once(catalog: Catalog) -> None:
    broker = await register(catalog)
    streams = await new_streams(catalog, 1500)
    epochs = await open_streams(catalog, broker, streams)
    assert len(epochs) == 3000
    await catalog.close_streams(1, broker.epoch, epochs)
    assert not any(s.open for s in await catalog.stream_infos(streams))
