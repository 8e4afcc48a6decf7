"""A leader that does not notice that it was replaced acknowledges nothing that its successor does not have."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster_sim.node import Node
from tests.cluster_sim.world import Focus, World, run_history

pytestmark = pytest.mark.filterwarnings("ignore")


async def replace_leader(world: World, cut_off: str | None) -> None:
    """The leader is paused, or cut off from `cut_off`, until another broker leads; then it comes back."""
    await world.start(waits=True)
    producer = world.producers[0]
    assert await world.until(lambda: producer.acknowledged_count > 0, 10.0)
    node = leader_of(world, producer.partition)
    assert node.process is not None
    links = [(node.host, cut_off), (cut_off, node.host)] if cut_off is not None else []
    if links:
        world.network.block(*links)
    else:
        node.process.pause()
    assert await world.until(lambda: leader_of(world, producer.partition) is not node, 10.0)
    before = producer.acknowledged_count
    assert await world.until(lambda: producer.acknowledged_count > before, 10.0), "the successor serves"
    if links:
        world.network.unblock(*links)
    else:
        node.process.go_on()
    await asyncio.sleep(2.0)
    await world.finish()


def leader_of(world: World, partition: int) -> Node:
    return world.nodes[world.topic().partitions[partition].leader]


@pytest.mark.parametrize(("wal_kind", "cut_off"), [("shared", None), ("object", None), ("volume", "catalog")])
def test_a_leader_that_was_paused_or_cut_off_acknowledges_nothing_that_is_lost(
    wal_kind: str, cut_off: str | None
) -> None:
    result = run_history(
        1,
        is_brief=True,
        focus=Focus(wal_kinds=(wal_kind,)),
        script=lambda world: replace_leader(world, cut_off),
    )
    assert result.violations == []
    if cut_off is not None:
        assert result.counters["confirmation withheld"], "it had something to acknowledge"
