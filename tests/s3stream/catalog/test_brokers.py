from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from s3stream.catalog.api import (
    NO_LEADER,
    BrokerAlreadyRegistered,
    BrokerFenced,
    BrokerNotStopped,
    Catalog,
    CatalogError,
    NewObject,
    NewTopic,
    UnknownBroker,
)
from tests.s3stream.catalog.steps import HOUR_MS, commit, new_streams, open_streams, register, span


async def test_a_registered_broker_is_listed_alive_with_all_it_said(catalog: Catalog) -> None:
    broker = await catalog.register_broker(7, "::1", 19092, "rack-a", "s3://bucket/wal", HOUR_MS, uuid4())
    assert (broker.node_id, broker.host, broker.port, broker.rack) == (7, "::1", 19092, "rack-a")
    assert broker.wal_url == "s3://bucket/wal"
    assert (broker.alive, broker.closed, broker.fenced) == (True, False, False)
    assert await catalog.brokers() == [broker]


async def test_epochs_grow_over_all_nodes(catalog: Catalog) -> None:
    epochs = [(await register(catalog, node_id, lease_ms=0)).epoch for node_id in (1, 2, 1, 3, 2)]
    assert epochs == sorted(set(epochs))


async def test_a_node_id_in_use_is_refused_with_the_address_that_uses_it(catalog: Catalog) -> None:
    await register(catalog)
    with pytest.raises(BrokerAlreadyRegistered, match="host1:9092"):
        await register(catalog)


async def test_the_same_incarnation_may_ask_again_and_keeps_its_epoch(catalog: Catalog) -> None:
    incarnation = UUID(int=5)
    first = await register(catalog, incarnation=incarnation)
    assert (await register(catalog, incarnation=incarnation)).epoch == first.epoch


@pytest.mark.parametrize("end", ["lease ran out", "fenced", "closed"])
async def test_a_node_id_is_free_once_its_registration_ended(catalog: Catalog, end: str) -> None:
    former = await register(catalog, lease_ms=0 if end == "lease ran out" else HOUR_MS)
    if end == "fenced":
        assert await catalog.fence_broker(1, former.epoch)
    if end == "closed":
        await catalog.close_broker(1, former.epoch)
    assert (await register(catalog)).epoch > former.epoch


async def test_nothing_a_superseded_registration_writes_is_accepted(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    old = await register(catalog, lease_ms=0)
    epochs = await open_streams(catalog, old, streams)
    [(object_id, _)] = await catalog.prepare_objects(1, old.epoch, 1)
    await register(catalog)
    refused = [
        catalog.renew_lease(1, old.epoch, HOUR_MS),
        catalog.close_broker(1, old.epoch),
        catalog.claim_partitions(1, old.epoch),
        catalog.open_streams(1, old.epoch, streams),
        catalog.close_streams(1, old.epoch, epochs),
        catalog.trim_streams(1, old.epoch, {streams[0]: (epochs[streams[0]], 1)}),
        catalog.prepare_objects(1, old.epoch, 1),
        catalog.commit_objects(1, old.epoch, [NewObject(object_id, 1, (span(streams[0], 0, 1),))], epochs),
        catalog.recovered(9, 9, 1, old.epoch),
        catalog.allocate_producer_ids(1, old.epoch, 1),
    ]
    for write in refused:
        with pytest.raises(BrokerFenced):
            await write


async def test_a_lease_that_ran_out_is_no_end_until_somebody_fences(catalog: Catalog) -> None:
    broker = await register(catalog, lease_ms=0)
    assert [b.alive for b in await catalog.brokers()] == [False]
    await catalog.prepare_objects(1, broker.epoch, 1)
    await catalog.renew_lease(1, broker.epoch, HOUR_MS)
    assert [b.alive for b in await catalog.brokers()] == [True]


async def test_a_live_lease_is_only_ended_with_proof(catalog: Catalog) -> None:
    broker = await register(catalog)
    assert not await catalog.fence_broker(1, broker.epoch, only_expired=True)
    await catalog.renew_lease(1, broker.epoch, HOUR_MS)
    assert await catalog.fence_broker(1, broker.epoch)
    with pytest.raises(BrokerFenced):
        await catalog.renew_lease(1, broker.epoch, HOUR_MS)


async def test_fencing_twice_or_what_never_was_is_no_error(catalog: Catalog) -> None:
    broker = await register(catalog)
    await catalog.fence_broker(1, broker.epoch)
    assert await catalog.fence_broker(1, broker.epoch)
    assert await catalog.fence_broker(1, 999, only_expired=True)


async def test_a_broker_that_had_nothing_open_needs_no_recovery(catalog: Catalog) -> None:
    broker = await register(catalog)
    await catalog.fence_broker(1, broker.epoch)
    assert await catalog.unrecovered() == []
    assert [(b.closed, b.fenced) for b in await catalog.brokers()] == [(True, False)]


async def test_a_broker_closes_only_when_its_streams_are_closed(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    broker = await register(catalog)
    epochs = await open_streams(catalog, broker, streams)
    with pytest.raises(CatalogError, match="open streams"):
        await catalog.close_broker(1, broker.epoch)
    await catalog.close_streams(1, broker.epoch, epochs)
    await catalog.close_broker(1, broker.epoch)
    await catalog.close_broker(1, broker.epoch)
    assert [(b.alive, b.closed) for b in await catalog.brokers()] == [(False, True)]


async def test_every_superseded_wal_is_listed_until_it_is_recovered(catalog: Catalog) -> None:
    streams = await new_streams(catalog, 2)
    first = await register(catalog, lease_ms=0)
    await open_streams(catalog, first, streams[:2])
    second = await register(catalog, lease_ms=0)
    await open_streams(catalog, second, streams[2:])
    third = await register(catalog)
    assert [(b.epoch, b.wal_url) for b in await catalog.unrecovered()] == [
        (first.epoch, "file:///wal1"),
        (second.epoch, "file:///wal1"),
    ]
    await catalog.recovered(1, first.epoch, 1, third.epoch)
    await catalog.recovered(1, first.epoch, 1, third.epoch)
    assert [b.epoch for b in await catalog.unrecovered()] == [second.epoch]
    await open_streams(catalog, third, streams[:2])


async def test_recovery_begins_with_fencing(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    dead = await register(catalog, 1, lease_ms=0)
    await open_streams(catalog, dead, streams)
    heir = await register(catalog, 2)
    with pytest.raises(CatalogError, match="not fenced"):
        await catalog.recovered(1, dead.epoch, 2, heir.epoch)


async def test_the_heir_commits_the_tail_and_then_owns_the_streams(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    dead = await register(catalog, 1, lease_ms=0)
    epochs = await open_streams(catalog, dead, streams)
    heir = await register(catalog, 2)
    assert await catalog.fence_broker(1, dead.epoch, only_expired=True)
    await commit(catalog, heir, epochs, span(streams[0], 0, 10))
    await catalog.recovered(1, dead.epoch, 2, heir.epoch)
    assert await catalog.claim_partitions(2, heir.epoch) == 1
    opened = await catalog.open_streams(2, heir.epoch, streams)
    assert [(s.epoch, s.node_id, s.end_offset) for s in opened] == [(2, 2, 10), (2, 2, 0)]


async def test_partitions_are_claimed_from_the_closed_and_the_recovered_only(catalog: Catalog) -> None:
    alive, closed, fenced, heir = [await register(catalog, node_id) for node_id in (1, 2, 3, 4)]
    topic = await catalog.create_topic(NewTopic("t", [1, 2, 3, 4, 5], {}))
    await open_streams(catalog, fenced, [topic.partitions[2].log_stream_id])
    await catalog.close_broker(2, closed.epoch)
    await catalog.fence_broker(3, fenced.epoch)

    async def leaders() -> list[tuple[int, int]]:
        [now] = (await catalog.load_changes(0)).topics.values()
        assert now is not None
        return [(p.leader, p.leader_epoch) for p in now.partitions]

    assert await catalog.claim_partitions(4, heir.epoch) == 2  # of the closed, and of node 5 that never was
    assert await leaders() == [(1, 0), (1, 1), (3, 0), (4, 0), (4, 1)]
    await catalog.recovered(3, fenced.epoch, 4, heir.epoch)
    assert await catalog.claim_partitions(4, heir.epoch) == 1
    assert await catalog.claim_partitions(4, heir.epoch) == 0
    assert await leaders() == [(1, 0), (1, 1), (1, 1), (4, 0), (4, 1)]
    assert alive.alive


async def test_what_a_recovered_broker_led_is_shared_in_the_same_step_if_wanted(catalog: Catalog) -> None:
    dead, heir, _ = [await register(catalog, node_id) for node_id in (1, 2, 3)]
    topic = await catalog.create_topic(NewTopic("t", [1, 1], {}))
    await open_streams(catalog, dead, [p.log_stream_id for p in topic.partitions])
    assert await catalog.claim_recovery(1, dead.epoch, 2, heir.epoch)
    assert await catalog.recovered(1, dead.epoch, 2, heir.epoch, absent={3}) == 2
    assert await catalog.recovered(1, dead.epoch, 2, heir.epoch, absent={3}) == 0
    [now] = (await catalog.load_changes(0)).topics.values()
    assert now is not None
    assert [p.leader for p in now.partitions] == [2, 2], "nothing is given to those that are absent"


async def test_what_is_claimed_evens_out_what_brokers_lead(catalog: Catalog) -> None:
    brokers = [await register(catalog, node_id) for node_id in (1, 2, 3)]
    await catalog.create_topic(NewTopic("kept", [1] * 6 + [2] * 2, {}))
    await catalog.create_topic(NewTopic("moved", [9] * 10, {}))
    assert await catalog.claim_partitions(1, brokers[0].epoch) == 10
    led = [p.leader for t in (await catalog.load_changes(0)).topics.values() if t is not None for p in t.partitions]
    assert [led.count(node_id) for node_id in (1, 2, 3)] == [6, 6, 6]


async def test_a_recovery_has_one_owner_until_that_one_is_gone(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    dead = await register(catalog, 1)
    await open_streams(catalog, dead, streams)
    first, second = [await register(catalog, node_id) for node_id in (2, 3)]
    assert await catalog.claim_recovery(1, dead.epoch, 2, first.epoch)
    assert [broker.epoch for broker in await catalog.unrecovered()] == [dead.epoch], "its registration has ended"
    assert await catalog.claim_recovery(1, dead.epoch, 2, first.epoch), "it has the claim already"
    assert not await catalog.claim_recovery(1, dead.epoch, 3, second.epoch)
    await catalog.fence_broker(2, first.epoch)
    with pytest.raises(BrokerFenced):
        await catalog.claim_recovery(1, dead.epoch, 2, first.epoch)
    assert await catalog.claim_recovery(1, dead.epoch, 3, second.epoch)
    await catalog.recovered(1, dead.epoch, 3, second.epoch)
    assert not await catalog.claim_recovery(1, dead.epoch, 3, second.epoch), "there is nothing left to do"


async def test_a_recovery_is_free_again_when_the_lease_of_its_owner_is_over(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    dead, owner, other = [
        await register(catalog, 1),
        await register(catalog, 2, lease_ms=0),
        await register(catalog, 3),
    ]
    await open_streams(catalog, dead, streams)
    await catalog.fence_broker(1, dead.epoch)
    assert await catalog.claim_recovery(1, dead.epoch, 2, owner.epoch)
    assert await catalog.claim_recovery(1, dead.epoch, 3, other.epoch)


async def test_what_a_broker_has_not_opened_is_claimed_when_its_lease_is_over(catalog: Catalog) -> None:
    late, heir = await register(catalog, 1, lease_ms=0), await register(catalog, 2)
    topic = await catalog.create_topic(NewTopic("t", [1, 1, 2], {}))
    await open_streams(catalog, late, [topic.partitions[0].state_stream_id])
    assert await catalog.claim_partitions(2, heir.epoch) == 1
    [now] = (await catalog.load_changes(0)).topics.values()
    assert now is not None
    assert [p.leader for p in now.partitions] == [1, 2, 2]


async def test_what_a_former_registration_left_unrecovered_has_no_leader_until_it_is_recovered(
    catalog: Catalog,
) -> None:
    former = await register(catalog, 1)
    topic = await catalog.create_topic(NewTopic("t", [1, 1, 1], {}))
    lost = topic.partitions[1]
    await open_streams(catalog, former, [topic.partitions[0].log_stream_id])
    await catalog.close_streams(1, former.epoch, {topic.partitions[0].log_stream_id: 1})
    await open_streams(catalog, former, [lost.log_stream_id, lost.state_stream_id])
    await catalog.fence_broker(1, former.epoch)
    again, other = await register(catalog, 1), await register(catalog, 2)

    async def leaders() -> list[int]:
        [now] = (await catalog.load_changes(0)).topics.values()
        assert now is not None
        return [p.leader for p in now.partitions]

    for _ in range(2):
        assert await catalog.claim_partitions(1, again.epoch) == 0
        assert await catalog.claim_partitions(2, other.epoch) == 0
        assert await leaders() == [1, NO_LEADER, 1]
    await catalog.close_broker(1, again.epoch)
    assert await catalog.claim_partitions(2, other.epoch) == 2
    await catalog.recovered(1, former.epoch, 2, other.epoch)
    assert await catalog.claim_partitions(2, other.epoch) == 1
    assert await leaders() == [2, 2, 2]


async def test_producer_ids_are_never_given_twice(catalog: Catalog) -> None:
    broker = await register(catalog)
    firsts = [await catalog.allocate_producer_ids(1, broker.epoch, 1000) for _ in range(3)]
    assert firsts == [0, 1000, 2000]


async def test_a_broker_is_forgotten_only_when_nothing_of_it_is_left(catalog: Catalog) -> None:
    streams = await new_streams(catalog)
    await register(catalog, 2)
    first = await register(catalog)
    await open_streams(catalog, first, streams)
    await catalog.alter_configs("broker", "1", {"tailrace.draining": "true"})
    with pytest.raises(BrokerNotStopped, match="runs"):
        await catalog.unregister_broker(1)
    await catalog.fence_broker(1, first.epoch)
    with pytest.raises(BrokerNotStopped, match="not recovered"):
        await catalog.unregister_broker(1)
    second = (await catalog.brokers())[1]
    await catalog.recovered(1, first.epoch, 2, second.epoch)
    seen = await catalog.load_changes(0)
    await catalog.unregister_broker(1)
    assert [broker.node_id for broker in await catalog.brokers()] == [2]
    changes = await catalog.load_changes(seen.seq)
    assert changes.brokers == {1: None}
    assert changes.configs == {("broker", "1"): {}}
    with pytest.raises(UnknownBroker):
        await catalog.unregister_broker(1)
