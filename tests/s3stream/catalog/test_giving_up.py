"""An unclean takeover: only of who is gone, only what its objects do not hold, and on record."""

from __future__ import annotations

import pytest

from s3stream.catalog.api import BrokerFenced, Catalog, CatalogError, LostTail, NewTopic
from tests.s3stream.catalog.steps import commit, open_streams, register, span


async def new_topic(catalog: Catalog, leader: int, count: int = 2) -> list[tuple[int, int]]:
    topic = await catalog.create_topic(NewTopic("t", [leader] * count, {}))
    return [(p.log_stream_id, p.state_stream_id) for p in topic.partitions]


async def test_what_is_given_up_begins_where_the_objects_end_and_is_led_again(catalog: Catalog) -> None:
    gone, heir = await register(catalog, 1), await register(catalog, 2)
    (log, state), _ = await new_topic(catalog, 1)
    epochs = await open_streams(catalog, gone, [log, state])
    await commit(catalog, gone, {log: epochs[log]}, span(log, 0, 7))
    await catalog.fence_broker(1, gone.epoch)
    before = await catalog.lost_tails(1)
    [tail] = before
    assert (tail.node_id, tail.epoch, tail.topic, tail.partition, tail.start_offset) == (1, gone.epoch, "t", 0, 7)
    assert tail.last_upload_ms is not None
    assert await catalog.claim_partitions(2, heir.epoch) == 1, "the one that was never opened lost nothing"
    assert await catalog.give_up(1) == before
    assert [lost for _, lost in await catalog.given_up(1)] == before
    assert await catalog.unrecovered() == []
    assert await catalog.claim_partitions(2, heir.epoch) == 1
    [opened, _] = await catalog.open_streams(2, heir.epoch, [log, state])
    assert opened.end_offset == 7
    assert await catalog.lost_tails(1) == await catalog.give_up(1) == []
    assert [lost for _, lost in await catalog.given_up(1)] == before


async def test_a_broker_whose_lease_is_over_is_out_with_its_tail(catalog: Catalog) -> None:
    gone = await register(catalog, 1, lease_ms=0)
    (log, state), _ = await new_topic(catalog, 1)
    await open_streams(catalog, gone, [log, state])
    assert await catalog.give_up(1) == [LostTail(1, gone.epoch, "t", 0, 0, None)]
    with pytest.raises(BrokerFenced):
        await catalog.renew_lease(1, gone.epoch, 1_000)


async def test_the_tail_of_a_broker_that_lives_is_not_given_up(catalog: Catalog) -> None:
    alive = await register(catalog, 1)
    (log, state), _ = await new_topic(catalog, 1)
    await open_streams(catalog, alive, [log, state])
    assert await catalog.lost_tails(1) == await catalog.give_up(1) == []
    await catalog.renew_lease(1, alive.epoch, 1_000)


async def test_a_former_life_of_a_broker_that_lives_again_is_given_up(catalog: Catalog) -> None:
    former = await register(catalog, 1, lease_ms=0)
    (log, state), _ = await new_topic(catalog, 1)
    await open_streams(catalog, former, [log, state])
    again = await register(catalog, 1)
    assert [tail.epoch for tail in await catalog.give_up(1)] == [former.epoch]
    await catalog.open_streams(1, again.epoch, [log, state])


async def test_what_somebody_recovers_is_not_given_up(catalog: Catalog) -> None:
    gone, other = await register(catalog, 1), await register(catalog, 2)
    (log, state), _ = await new_topic(catalog, 1)
    await open_streams(catalog, gone, [log, state])
    await catalog.fence_broker(1, gone.epoch)
    assert await catalog.claim_recovery(1, gone.epoch, 2, other.epoch)
    for attempt in (catalog.lost_tails, catalog.give_up):
        with pytest.raises(CatalogError, match="is being recovered"):
            await attempt(1)
    await catalog.release_recovery(1, gone.epoch, 2, other.epoch)
    assert len(await catalog.give_up(1)) == 1


async def test_a_node_that_nobody_knows_lost_nothing(catalog: Catalog) -> None:
    assert await catalog.lost_tails(5) == await catalog.give_up(5) == await catalog.given_up(5) == []
