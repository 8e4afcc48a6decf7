from __future__ import annotations

from itertools import pairwise

import pytest

from s3stream.catalog import listing
from s3stream.catalog.api import Catalog, CatalogError, NewObject, ObjectGone, OffsetsNotContinuous, StreamEpochFenced
from tests.s3stream.catalog.steps import NEVER_MS, commit, live_ids, new_streams, open_streams, register, span


async def test_prepared_objects_have_ids_and_keys_of_their_own_over_many_prefixes(catalog: Catalog) -> None:
    broker = await register(catalog)
    prepared = await catalog.prepare_objects(1, broker.epoch, 64) + await catalog.prepare_objects(1, broker.epoch, 64)
    assert len({object_id for object_id, _ in prepared}) == 128
    assert len({key for _, key in prepared}) == 128
    assert len({key[:2] for _, key in prepared}) == 128


async def test_a_commit_moves_the_ends_and_is_found_by_its_streams(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    object_id = await commit(catalog, broker, epochs, span(b, 0, 5), span(a, 0, 10), span(a, 10, 12))
    assert [s.end_offset for s in await catalog.stream_infos([a, b])] == [12, 5]
    [found] = await catalog.live_objects([a, b])
    assert (found.object_id, found.size) == (object_id, 1700)
    assert found.ranges == (span(a, 0, 10), span(a, 10, 12), span(b, 0, 5))
    [of_b] = await catalog.live_objects([b])
    assert of_b.ranges == (span(b, 0, 5),)


async def test_what_was_committed_last_tells_which_streams_are_in_use(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await register(catalog)
    assert await catalog.latest_streams() == set()
    streams = await new_streams(catalog, 3)
    epochs = await open_streams(catalog, broker, streams)
    monkeypatch.setattr(listing, "LATEST_COUNT", 2)
    for one, other in pairwise(streams[:4]):
        start = 0 if one == streams[0] else 5
        await commit(catalog, broker, epochs, span(one, start, start + 5), span(other, 0, 5))
    await commit(catalog, broker, epochs, span(streams[5], 0, 5))
    await catalog.prepare_objects(1, broker.epoch, 5)
    assert await catalog.latest_streams() == {streams[1], streams[2], streams[3]}


async def test_a_repeated_commit_is_no_error_even_after_the_streams_went_on(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    first = await commit(catalog, broker, epochs, span(a, 0, 10))
    await commit(catalog, broker, epochs, span(a, 10, 20))
    await commit(catalog, broker, epochs, span(a, 0, 10), object_id=first)
    await catalog.trim_streams(1, broker.epoch, {a: (1, 20)})
    await commit(catalog, broker, epochs, span(a, 0, 10), object_id=first)
    assert [s.end_offset for s in await catalog.stream_infos([a])] == [20]
    assert await live_ids(catalog, [a]) == []


@pytest.mark.parametrize(("start", "end"), [(11, 12), (9, 12), (0, 10), (10, 10), (10, 9)])
async def test_a_hole_an_overlap_or_nothing_is_not_committed(catalog: Catalog, start: int, end: int) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    await commit(catalog, broker, epochs, span(a, 0, 10))
    with pytest.raises(OffsetsNotContinuous):
        await commit(catalog, broker, epochs, span(b, 0, 1), span(a, start, end))
    assert [s.end_offset for s in await catalog.stream_infos([a, b])] == [10, 0]


async def test_objects_are_committed_together_or_not_at_all(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    [(first, _), (second, _)] = await catalog.prepare_objects(1, broker.epoch, 2)
    of_a = NewObject(first, 1000, (span(a, 0, 10),))
    with pytest.raises(OffsetsNotContinuous):
        await catalog.commit_objects(1, broker.epoch, [of_a, NewObject(second, 100, (span(b, 1, 2),))], epochs)
    assert await live_ids(catalog, [a, b]) == []
    both = [of_a, NewObject(second, 600, (span(a, 10, 15), span(b, 0, 1)))]
    for _ in range(2):
        await catalog.commit_objects(1, broker.epoch, both, epochs)
    assert await live_ids(catalog, [a, b]) == [first, second]
    assert [s.end_offset for s in await catalog.stream_infos([a, b])] == [15, 1]


async def test_ranges_of_one_stream_in_one_object_follow_each_other(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    with pytest.raises(OffsetsNotContinuous):
        await commit(catalog, broker, epochs, span(a, 0, 5), span(a, 6, 7))


async def test_a_commit_may_skip_what_was_trimmed_and_no_more(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    await catalog.trim_streams(1, broker.epoch, {a: (1, 50)})
    with pytest.raises(OffsetsNotContinuous):
        await commit(catalog, broker, epochs, span(a, 51, 60))
    await commit(catalog, broker, epochs, span(a, 40, 60))
    assert [(s.start_offset, s.end_offset) for s in await catalog.stream_infos([a])] == [(50, 60)]


async def test_an_old_stream_epoch_commits_nothing(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    old = await open_streams(catalog, broker, [a, b])
    await open_streams(catalog, broker, [a])
    with pytest.raises(StreamEpochFenced):
        await commit(catalog, broker, old, span(b, 0, 1), span(a, 0, 1))
    with pytest.raises(StreamEpochFenced):
        await commit(catalog, broker, {}, span(b, 0, 1))
    assert [s.end_offset for s in await catalog.stream_infos([a, b])] == [0, 0]


async def test_a_closed_stream_and_one_of_a_living_broker_take_no_commit(catalog: Catalog) -> None:
    holder, other = await register(catalog, 1), await register(catalog, 2)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, holder, [a])
    with pytest.raises(StreamEpochFenced, match="not fenced"):
        await commit(catalog, other, epochs, span(a, 0, 1))
    await catalog.close_streams(1, holder.epoch, epochs)
    with pytest.raises(StreamEpochFenced):
        await commit(catalog, holder, epochs, span(a, 0, 1))


async def test_deleted_streams_are_skipped_and_ids_never_given_are_an_error(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, b = await new_streams(catalog, name="kept")
    gone, _ = await new_streams(catalog, name="gone")
    epochs = await open_streams(catalog, broker, [a, b, gone])
    [topic_id] = [i for i, t in (await catalog.load_changes(0)).topics.items() if t is not None and t.name == "gone"]
    await catalog.delete_topic(topic_id)
    object_id = await commit(catalog, broker, epochs, span(a, 0, 1), span(gone, 0, 7))
    assert await live_ids(catalog, [a]) == [object_id]
    with pytest.raises(CatalogError, match="never was"):
        await commit(catalog, broker, {999: 1}, span(999, 0, 1))


async def test_an_object_that_holds_only_deleted_streams_is_up_for_deletion_at_once(catalog: Catalog) -> None:
    broker = await register(catalog)
    streams = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, streams)
    [topic_id] = (await catalog.load_changes(0)).topics
    before = await commit(catalog, broker, epochs, span(streams[0], 0, 1))
    await catalog.delete_topic(topic_id)
    after = await commit(catalog, broker, epochs, span(streams[0], 1, 2))
    assert [object_id for object_id, _ in await catalog.abandoned_objects(0, 10)] == [before, after]


async def test_an_object_lives_while_one_of_its_ranges_does(catalog: Catalog) -> None:
    broker = await register(catalog)
    streams = await new_streams(catalog, 2)
    epochs = await open_streams(catalog, broker, streams)
    object_id = await commit(catalog, broker, epochs, *(span(i, 0, 10) for i in streams))
    for i, stream_id in enumerate(streams):
        assert [o.object_id for o in await catalog.live_objects(streams)] == [object_id]
        await catalog.trim_streams(1, broker.epoch, {stream_id: (1, 9)})
        assert len((await catalog.live_objects(streams))[0].ranges) == 4 - i
        assert await catalog.abandoned_objects(0, 10) == []
        await catalog.trim_streams(1, broker.epoch, {stream_id: (1, 10)})
    assert await catalog.live_objects(streams) == []
    assert [found for found, _ in await catalog.abandoned_objects(0, 10)] == [object_id]


async def test_deletion_waits_its_time_and_is_over_when_the_object_is_forgotten(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    object_id = await commit(catalog, broker, epochs, span(a, 0, 10))
    await catalog.trim_streams(1, broker.epoch, {a: (1, 10)})
    assert await catalog.abandoned_objects(NEVER_MS, 10) == []
    for _ in range(2):
        [(found, key)] = await catalog.abandoned_objects(0, 10)
        assert found == object_id
        assert key
    await catalog.forget_objects([object_id])
    await catalog.forget_objects([object_id])
    assert await catalog.abandoned_objects(0, 10) == []


async def test_what_still_lives_can_not_be_forgotten(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    object_id = await commit(catalog, broker, epochs, span(a, 0, 10))
    [(prepared, _)] = await catalog.prepare_objects(1, broker.epoch, 1)
    await catalog.forget_objects([object_id, prepared])
    assert await live_ids(catalog, [a]) == [object_id]
    await commit(catalog, broker, epochs, span(a, 10, 20), object_id=prepared)


async def test_what_was_given_up_can_not_be_committed_any_more(catalog: Catalog) -> None:
    broker = await register(catalog)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a])
    [(object_id, key)] = await catalog.prepare_objects(1, broker.epoch, 1)
    assert await catalog.abandoned_objects(NEVER_MS, 10) == []
    assert await catalog.abandoned_objects(0, 10) == [(object_id, key)]
    with pytest.raises(ObjectGone):
        await commit(catalog, broker, epochs, span(a, 0, 10), object_id=object_id)
    await catalog.forget_objects([object_id])
    with pytest.raises(ObjectGone):
        await commit(catalog, broker, epochs, span(a, 0, 10), object_id=object_id)


async def test_what_a_fenced_broker_prepared_is_given_up_at_once(catalog: Catalog) -> None:
    broker = await register(catalog)
    prepared = await catalog.prepare_objects(1, broker.epoch, 3)
    await catalog.fence_broker(1, broker.epoch)
    assert await catalog.abandoned_objects(NEVER_MS, 2) == prepared[:2]
    await catalog.forget_objects([object_id for object_id, _ in prepared[:2]])
    assert await catalog.abandoned_objects(NEVER_MS, 2) == prepared[2:]


async def test_nobody_commits_what_another_broker_prepared(catalog: Catalog) -> None:
    one, two = await register(catalog, 1), await register(catalog, 2)
    a, _ = await new_streams(catalog)
    epochs = await open_streams(catalog, two, [a])
    [(object_id, _)] = await catalog.prepare_objects(1, one.epoch, 1)
    with pytest.raises(CatalogError, match="another broker"):
        await commit(catalog, two, epochs, span(a, 0, 1), object_id=object_id)


async def test_a_deletion_of_more_objects_than_one_transaction_takes_is_finished_later(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3stream.catalog.objects.RETIRE_COUNT_MAX", 4)
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    count = 15
    prepared = await catalog.prepare_objects(1, broker.epoch, count)
    for i, (object_id, _) in enumerate(prepared):
        await commit(catalog, broker, epochs, span(a, i, i + 1), object_id=object_id)
    await catalog.trim_streams(1, broker.epoch, {a: (1, count)})
    assert await live_ids(catalog, [a]) == []
    assert len(await catalog.abandoned_objects(0, 2 * count)) == count


async def test_objects_are_listed_by_id_over_several_pages(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3stream.catalog.catalog.PAGE_COUNT", 3)
    broker = await register(catalog)
    a, b = await new_streams(catalog)
    epochs = await open_streams(catalog, broker, [a, b])
    committed = [await commit(catalog, broker, epochs, span((a, b)[i % 2], i // 2, i // 2 + 1)) for i in range(9)]
    assert await live_ids(catalog, [a, b]) == committed
    assert await live_ids(catalog, [b]) == committed[1::2]
