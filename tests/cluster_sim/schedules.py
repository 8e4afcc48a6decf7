"""Histories whose faults come in one chosen order: what random ones meet too seldom.

Each is the shortest story in which one guard is all that keeps a promise. The product keeps it; with the guard taken
away (see `mutations`) the history ends in a violation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.cluster_sim.clients import Producer
from tests.cluster_sim.holding import Hold
from tests.cluster_sim.node import Node
from tests.cluster_sim.services import at_once
from tests.cluster_sim.world import World

SETTLE_S = 10.0
UNANSWERED_S = 25.0
"""Longer than a transaction of the catalog is tried again."""
BALANCED_S = 2.0
"""Nobody moves anything any more."""


async def opening_after_the_end(world: World) -> None:
    """A broker's request to open what was handed to it is carried out when it is dead and recovered already."""
    producer, _ = await _begin(world)
    await asyncio.sleep(BALANCED_S)
    leader = leader_of(world, producer)
    heir, *others = _others(world, leader)
    late = world.holds.hold(heir, "open_streams")
    elsewhere = [world.holds.hold(each, "open_streams") for each in (leader, *others)]
    _move(world, producer, heir)
    await _comes_true(world, lambda: late.has("open_streams"))
    heir.kill()
    await _comes_true(world, lambda: leader_of(world, producer) not in (heir, None))
    await _comes_true(world, lambda: any(hold.has("open_streams") for hold in elsewhere))
    late.release()
    await asyncio.sleep(0.1)
    for hold in elsewhere:
        hold.release()
    await world.finish()


async def opening_of_what_was_claimed(world: World) -> None:
    """A broker is away for longer than its lease, while it opens what was handed to it; nobody can reach its log, so
    nobody fences it, but what it has not opened is claimed by another one. It comes back, and opens it all the same."""
    producer, leader = await _begin(world)
    heir, other = _others(world, leader)
    late = world.holds.hold(heir, "open_streams")
    elsewhere = [world.holds.hold(each, "open_streams") for each in (leader, other)]
    _move(world, producer, heir)
    await _comes_true(world, lambda: late.has("open_streams"))
    away = world.holds.hold(heir, "renew_lease")
    unaware = world.holds.hold(heir, "load_changes")
    await _comes_true(world, lambda: any(hold.has("open_streams") for hold in elsewhere))
    away.release()
    late.release()
    await _gets_on_at(world, producer, heir)
    for hold in elsewhere:
        hold.release()
    await _gets_on_at(world, producer, heir, 3.0)
    unaware.release()
    await world.finish()


async def recovery_overtaken(world: World) -> None:
    """Who recovers a dead broker's log is so slow that its claim ends; another one does it, leads and writes on. Then
    the first one's commit arrives: it lives, and was never fenced."""
    producer, leader = await _begin(world)
    claims = await _die_with_a_tail(world, producer, leader)
    first, second = sorted(claims, key=lambda each: not claims[each].kept)
    slow = world.holds.hold(first, "commit_objects", "renew_lease")
    merciful = world.holds.hold(second, "fence_broker")
    claims[first].release()
    await _comes_true(world, lambda: slow.has("commit_objects"))
    claims[second].release()
    await _comes_true(world, lambda: leader_of(world, producer) is second)
    await _gets_on(world, producer)
    await asyncio.sleep(1.0)
    slow.release()
    await asyncio.sleep(0.5)
    merciful.release()
    await _gets_on(world, producer)
    await world.finish()


async def recovery_by_two(world: World) -> None:
    """A second broker wants to recover a dead one's log while the first, which has the claim, is at it."""
    producer, leader = await _begin(world)
    *_, slow, claim = await _die_and_be_recovered_slowly(world, producer, leader)
    claim.release()
    await asyncio.sleep(1.5)
    slow.release()
    await _gets_on(world, producer)
    await world.finish()


async def recovery_cut_short(world: World) -> None:
    """Who recovers a dead broker's log dies before anything of it is committed; another one begins anew."""
    producer, leader = await _begin(world)
    first, second, _, claim = await _die_and_be_recovered_slowly(world, producer, leader)
    await asyncio.sleep(0.5)
    first.kill()
    claim.release()
    await _comes_true(world, lambda: leader_of(world, producer) is second)
    await world.finish()


async def claimed_before_recovered(world: World) -> None:
    """A dead broker's partitions have no leader for as long as nobody recovers its log."""
    producer, leader = await _begin(world)
    claims = await _die_with_a_tail(world, producer, leader)
    await asyncio.sleep(2.0)
    for hold in claims.values():
        hold.release()
    await _gets_on(world, producer)
    await world.finish()


async def resumed_without_news(world: World) -> None:
    """A leader goes on after a pause, in which it was replaced; nobody tells it who leads now."""
    producer, leader = await _begin(world)
    assert leader.process is not None
    unaware = world.holds.hold(leader, "load_changes", "prepare_objects", "commit_objects")
    leader.process.pause()
    await _comes_true(world, lambda: leader_of(world, producer) not in (leader, None))
    await _gets_on(world, producer)
    for other in _others(world, leader):
        world.network.block((leader.host, other.host))
    leader.process.go_on()
    await _gets_on_at(world, producer, leader, 3.0)
    unaware.release()
    await world.finish()


async def cut_off_from_the_catalog(world: World) -> None:
    """A leader whose renewals are answered late cannot reach the catalog any more; its clients still reach it."""
    producer, _ = await _begin(world)
    await asyncio.sleep(BALANCED_S)
    leader = leader_of(world, producer)
    # not so much that appends are refused because nothing can be committed
    for each in world.producers:
        each.window, each.pause_s = 1, 0.1 if each is producer else 1.0
    away, back = (leader.host, "catalog"), ("catalog", leader.host)
    world.network.slow_s[back] = 2.0
    await asyncio.sleep(world.rng.uniform(2.0, 4.0))
    world.network.block(away)
    await asyncio.sleep(world.plan.lease_ms / 1000 + 3.0)
    await world.finish()


async def killed_before_the_flush(world: World) -> None:
    """A leader is killed while its disk takes long for what it was sent."""
    _, leader = await _begin(world)
    assert leader.disk is not None
    leader.disk.slow_s, leader.disk.stall_share = 2.0, 1.0
    await asyncio.sleep(0.5)
    leader.kill()
    await world.finish()


async def flush_after_the_lease(world: World) -> None:
    """A leader is cut off from the catalog while its disk takes longer than its lease to write what it was sent."""
    _, leader = await _begin(world)
    assert leader.disk is not None
    leader.disk.slow_s, leader.disk.stall_share = 4.0, 1.0
    world.network.block((leader.host, "catalog"))
    await asyncio.sleep(6.0)
    await world.finish()


async def answer_to_handing_over_is_late(world: World) -> None:
    """The catalog hands a partition over long after its leader has given up waiting for the answer."""
    producer, leader = await _begin(world)
    late = world.holds.hold(leader, "hand_over")
    _move(world, producer, _others(world, leader)[0])
    await _comes_true(world, lambda: late.has("hand_over"))
    before = producer.acknowledged_count
    await world.until(lambda: producer.acknowledged_count > before, UNANSWERED_S)
    late.release()
    await asyncio.sleep(1.0)
    await world.finish()


async def moved_there_and_back(world: World) -> None:
    """A partition is handed over, and comes back later: who led it has let go of it meanwhile."""
    producer, leader = await _begin(world)
    for target in (_others(world, leader)[0], leader):
        _move(world, producer, target)
        await _comes_true(world, lambda target=target: leader_of(world, producer) is target)
    await world.finish()


async def another_log_at_the_address(world: World) -> None:
    """A broker's host comes up without the volume that its log is on, so that it begins a new one there. The volume
    comes back later, with all that only the former log has."""
    producer, leader = await _begin(world)
    world.store.is_down = True
    await _gets_on(world, producer)
    leader.kill()
    assert leader.disk is not None
    volume = leader.disk
    leader.disk = world.disks.replace(volume.path)
    world.store.is_down = False
    leader.start()
    await _comes_true(world, lambda: leader.has_served)
    await asyncio.sleep(4.0)
    leader.is_gone = True
    leader.stop()
    await _comes_true(world, lambda: not leader.is_up)
    leader.is_gone = False
    leader.disk = volume
    world.disks.directories[volume.path] = volume
    await world.finish()


# -- steps ------------------------------------------------------------------------------------------------------------
async def _begin(world: World) -> tuple[Producer, Node]:
    """All serve. A producer that gets on, and the leader of its partition."""
    await world.start(waits=True)
    producer = world.producers[0]
    await _gets_on(world, producer)
    return producer, leader_of(world, producer)


def leader_of(world: World, producer: Producer) -> Node | None:
    return world.nodes.get(world.topic().partitions[producer.partition].leader)


async def _die_with_a_tail(world: World, producer: Producer, leader: Node) -> dict[Node, Hold]:
    """What it has acknowledged is in its log only. The others are about to claim its recovery."""
    tail = world.holds.hold(leader, "commit_objects")
    await _comes_true(world, lambda: tail.has("commit_objects"))
    await _gets_on(world, producer)
    claims = {each: world.holds.hold(each, "claim_recovery") for each in _others(world, leader)}
    leader.kill()
    await _comes_true(world, lambda: any(hold.kept for hold in claims.values()))
    return claims


async def _die_and_be_recovered_slowly(world: World, producer: Producer, leader: Node) -> tuple[Node, Node, Hold, Hold]:
    """Who has claimed the recovery and who will, the first one's commit, which is held, and the second one's claim."""
    claims = await _die_with_a_tail(world, producer, leader)
    first, second = sorted(claims, key=lambda each: not claims[each].kept)
    slow = world.holds.hold(first, "commit_objects")
    claims[first].release()
    await _comes_true(world, lambda: slow.has("commit_objects"))
    return first, second, slow, claims[second]


def _others(world: World, node: Node) -> list[Node]:
    return [each for each in world.nodes.values() if each is not node]


def _move(world: World, producer: Producer, target: Node) -> None:
    at_once(world.metadata.set_targets({world.topic().topic_id: {producer.partition: target.node_id}}))


async def _comes_true(world: World, holds: Callable[[], bool]) -> None:
    if not await world.until(lambda: holds() or world.violations, SETTLE_S):
        world.violation("stuck", "the schedule cannot be kept")
        raise AssertionError


async def _gets_on(world: World, producer: Producer) -> None:
    before = producer.acknowledged_count
    await _comes_true(world, lambda: producer.acknowledged_count > before)


async def _gets_on_at(world: World, producer: Producer, node: Node, time_max: float = SETTLE_S) -> None:
    """It believes that this broker leads, and has its batches acknowledged there if it does."""
    before = producer.acknowledged_by[node.node_id]

    def acknowledged() -> bool:
        producer.leaders[producer.partition] = node.node_id
        return producer.acknowledged_by[node.node_id] > before

    await world.until(acknowledged, time_max)
