"""Which partitions should move where, and why. Pure and deterministic.

Goals, in this order; a later one is only pursued when the ones before have nothing left to do:

1. Brokers that drain lead nothing.
2. Partitions that were assigned by hand are led by one of the brokers of their assignment.
3. Every broker leads about as many partitions as the others, of each topic too, so that coordinators are spread as
   well. Nothing is moved before one is off the average by more than the bounds, and by one at least.
4. No broker carries much more than the average, of bytes in, bytes out, requests and CPU. Nothing is moved before one
   is above it by more than the bounds; then half of that is aimed at. Only looked at when nothing is under way, because
   what moves is measured at neither end.

Why it comes to rest: a move for 3 makes the counts of two brokers that differ by two or more closer, a step for 4 takes
at least a fixed amount off the sum of squares of what brokers carry, and leaves counts within the bounds of 3. So with
constant load there is an end, and no partition comes back. With load that varies, differences within the bounds lead to
nothing, and a partition that has moved a while ago is left alone by 4.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from broker.balance.cluster_load import DIMENSIONS, ClusterLoad
from broker.balance.model import IDLE, Bounds, BrokerState, Goal, Load, Move, PartitionState

LOAD_STEPS_MAX = 4
"""Moves, or exchanges of two, for the sake of load in one plan: their effect is looked at before there are more."""
CANDIDATES_MAX = 64
"""Partitions of one broker that are compared with each other at a time."""
_GAIN_MIN = 0.25
"""Of the square of the tolerated difference: what a step for load has to gain."""
_NAMES = ("bytes in", "bytes out", "requests", "CPU")


def plan(brokers: Iterable[BrokerState], partitions: Iterable[PartitionState], bounds: Bounds) -> list[Move]:
    """The next moves, most important first, no more than may be under way."""
    cluster = ClusterLoad(brokers, partitions)
    capacity = max(0, bounds.moves_max - cluster.moving_count)
    moves = list(islice(_drain(cluster), capacity))
    if moves or bounds.only_drain or len(cluster.receivers) < 2:
        return moves
    moves = list(islice(_assigned(cluster), capacity))
    moves += islice(_even_counts(cluster, bounds), capacity - len(moves))
    if moves or cluster.moving_count:
        return moves
    for step in islice(_even_loads(cluster, bounds), LOAD_STEPS_MAX):
        if len(moves) + len(step) > capacity:
            break
        moves += step
    return moves


# -- 1: draining ------------------------------------------------------------------------------------------------------
def _drain(cluster: ClusterLoad) -> Iterator[Move]:
    others = [node_id for node_id, each in cluster.brokers.items() if not each.draining]
    receivers = cluster.receivers or others
    if not receivers:
        return
    for source in cluster.draining:
        for partition in _busiest_first(cluster, cluster.movable(source)):
            usable = [each for each in receivers if cluster.may_be_at(partition, each)] or receivers
            target = _emptiest(cluster, partition, usable)
            yield _moved(cluster, partition, target, Goal.DRAIN, f"broker {source} is draining")


def _busiest_first(cluster: ClusterLoad, partitions: Iterable[PartitionState]) -> list[PartitionState]:
    def order(partition: PartitionState) -> tuple[object, ...]:
        share = max(partition.load[each] / cluster.scales[each] for each in DIMENSIONS)
        return -share, partition.key

    return sorted(partitions, key=order)


def _emptiest(cluster: ClusterLoad, partition: PartitionState, usable: list[int]) -> int:
    """Who leads few is filled up first; among those the least busy one, then that with the fewest of the topic."""
    fewest = min(cluster.led[each] for each in usable)
    few = [each for each in usable if cluster.led[each] <= fewest + 1]

    def order(node_id: int) -> tuple[object, ...]:
        of_topic = cluster.led_of_topic[node_id, partition.topic_id]
        busy = cluster.fullness(node_id) if partition.load is not IDLE else 0.0
        return busy, of_topic, cluster.led[node_id], node_id

    return min(few, key=order)


# -- 2: assignments ---------------------------------------------------------------------------------------------------
def _assigned(cluster: ClusterLoad) -> Iterator[Move]:
    for source in cluster.receivers:
        for partition in list(cluster.movable(source)):
            if cluster.may_be_at(partition, source):
                continue
            target = next((each for each in partition.replicas if each in cluster.receivers), None)
            if target is not None:
                listed = ", ".join(map(str, partition.replicas))
                yield _moved(cluster, partition, target, Goal.ASSIGNMENT, f"it was assigned to {listed}")


# -- 3: counts --------------------------------------------------------------------------------------------------------
def _even_counts(cluster: ClusterLoad, bounds: Bounds) -> Iterator[Move]:
    average = cluster.average_led()
    slack = _count_slack(average, bounds)
    if all(abs(cluster.led[each] - average) < slack for each in cluster.receivers):
        return
    while (found := _next_for_counts(cluster)) is not None:
        partition, target = found
        source = partition.leader
        reason = f"broker {source} leads {cluster.led[source]} partitions, broker {target} {cluster.led[target]}"
        yield _moved(cluster, partition, target, Goal.PARTITIONS, reason)


def _count_slack(average: float, bounds: Bounds) -> float:
    return max(1.0, average * bounds.partitions_percentage / 100)


def _next_for_counts(cluster: ClusterLoad) -> tuple[PartitionState, int] | None:
    ranked = sorted(cluster.receivers, key=lambda each: (cluster.led[each], each))
    for source in reversed(ranked):
        for target in ranked:
            if cluster.led[source] - cluster.led[target] < 2:
                break
            partition = _best_for_counts(cluster, source, target)
            if partition is not None:
                return partition, target
    return None


def _best_for_counts(cluster: ClusterLoad, source: int, target: int) -> PartitionState | None:
    """Of the topic that is most uneven between the two, for its size; then what makes their loads alike. So whoever is
    new gets of everything, what is busiest first."""
    uneven = 0.0
    usable: list[PartitionState] = []
    for topic_id, partitions in cluster.movable_topics(source):
        surplus = cluster.led_of_topic[source, topic_id] - cluster.led_of_topic[target, topic_id]
        share = surplus / cluster.partitions_of_topic[topic_id]
        if usable and (share < uneven or (share == uneven and len(usable) >= CANDIDATES_MAX)):
            continue
        found = list(islice((each for each in partitions if cluster.may_be_at(each, target)), CANDIDATES_MAX))
        if found:
            usable = usable + found if usable and share == uneven else found
            uneven = share

    def order(partition: PartitionState) -> tuple[object, ...]:
        return not partition.settled, cluster.unevenness(source, target, partition.load), partition.key

    return min(usable, key=order, default=None)


# -- 4: load ----------------------------------------------------------------------------------------------------------
class _Step(NamedTuple):
    gain: float
    given: PartitionState
    taken: PartitionState | None


def _even_loads(cluster: ClusterLoad, bounds: Bounds) -> Iterator[list[Move]]:
    if any(each.load is None for each in cluster.brokers.values()):
        return
    tolerated = bounds.load_percentage / 100
    if all(excess <= tolerated for excess, _, _ in _excesses(cluster)):
        return
    while (found := _next_for_load(cluster, bounds)) is not None:
        dimension, target, step = found
        source = step.given.leader
        amounts = (_amount(dimension, cluster.carried[each][dimension]) for each in (source, target))
        reason = f"{_NAMES[dimension]}: broker {source} has {next(amounts)}, broker {target} {next(amounts)}"
        moves = [_moved(cluster, step.given, target, Goal.LOAD, reason)]
        if step.taken is not None:
            moves.append(_moved(cluster, step.taken, source, Goal.LOAD, f"in exchange; {reason}"))
        yield moves


def _next_for_load(cluster: ClusterLoad, bounds: Bounds) -> tuple[int, int, _Step] | None:
    """(dimension, target, step) for the broker that is furthest above the average and can be helped."""
    aimed_at = bounds.load_percentage / 200
    for excess, dimension, source in _excesses(cluster):
        if excess <= aimed_at:
            return None
        best: tuple[float, int, _Step] | None = None
        for target in cluster.receivers:
            if target != source:
                step = _best_step(cluster, bounds, dimension, source, target)
                if step is not None and (best is None or step.gain > best[0]):
                    best = step.gain, target, step
        if best is not None:
            return dimension, best[1], best[2]
    return None


def _excesses(cluster: ClusterLoad) -> list[tuple[float, int, int]]:
    """How far each broker is above the average in each dimension, (share, dimension, node id), largest first."""
    excesses = [
        ((cluster.carried[each][dimension] - cluster.average(dimension)) / cluster.scales[dimension], dimension, each)
        for dimension in DIMENSIONS
        for each in cluster.receivers
    ]
    return sorted(excesses, key=lambda each: (-each[0], each[1], each[2]))


def _best_step(cluster: ClusterLoad, bounds: Bounds, dimension: int, source: int, target: int) -> _Step | None:
    """What makes the two most alike, if it is worth it: one partition there, or one there and one back."""
    tolerated = bounds.load_percentage / 100
    apart = cluster.carried[source][dimension] - cluster.carried[target][dimension]
    before = cluster.unevenness(source, target)
    gives = _candidates(cluster, source, target, dimension, busiest=True)
    takes = _candidates(cluster, target, source, dimension, busiest=False)
    options: list[PartitionState | None] = [*takes]
    if _leaves_counts_even(cluster, bounds, source, target):
        options.insert(0, None)
    best: _Step | None = None
    for given in gives:
        for taken in options:
            back = taken.load if taken is not None else IDLE
            lost, won = (
                cluster.amount(given.load, each, dimension) - cluster.amount(back, each, dimension)
                for each in (source, target)
            )
            # else the target would be the one that has too much, by as much or more
            if not 0 < lost + won < 2 * apart:
                continue
            gain = before - cluster.unevenness(source, target, given.load, back)
            if gain >= _GAIN_MIN * tolerated**2 and (best is None or gain > best.gain):
                best = _Step(gain, given, taken)
    return best


def _candidates(
    cluster: ClusterLoad, source: int, target: int, dimension: int, *, busiest: bool
) -> list[PartitionState]:
    sign = -1 if busiest else 1
    usable = (each for each in cluster.movable(source) if each.settled and cluster.may_be_at(each, target))
    return heapq.nsmallest(CANDIDATES_MAX, usable, key=lambda each: (sign * each.load[dimension], each.key))


def _leaves_counts_even(cluster: ClusterLoad, bounds: Bounds, source: int, target: int) -> bool:
    """One more partition there and one less here lead to no move for the sake of counts."""
    if cluster.led[source] - cluster.led[target] >= 2:
        return True
    average = cluster.average_led()
    slack = _count_slack(average, bounds)
    return average - (cluster.led[source] - 1) < slack and cluster.led[target] + 1 - average < slack


# -- moves ------------------------------------------------------------------------------------------------------------
def _moved(cluster: ClusterLoad, partition: PartitionState, target: int, goal: Goal, reason: str) -> Move:
    cluster.move(partition, target)
    return Move(partition.topic_id, partition.partition_index, partition.leader, target, goal, reason)


def _amount(dimension: int, value: float) -> str:
    match Load._fields[dimension]:
        case "requests":
            return f"{value:.0f}/s"
        case "cpu":
            return f"{value:.2f} cores"
        case _:
            return f"{value / 1e6:.1f} MB/s"
