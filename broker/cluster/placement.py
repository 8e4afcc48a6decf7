"""Where leaders go: to the alive brokers with the fewest partitions, in rotation among equals."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from s3stream.catalog.api import TopicInfo


def count_leaders(topics: Iterable[TopicInfo]) -> Counter[int]:
    """Node id -> partitions led."""
    loads: Counter[int] = Counter()
    for topic in topics:
        loads.update(partition.leader for partition in topic.partitions)
    return loads


def place_leaders(count: int, node_ids: Sequence[int], loads: Mapping[int, int], first: int) -> list[int]:
    """The leaders of `count` new partitions. `first` turns the order among equally loaded brokers.

    Deterministic; `node_ids` must not be empty.
    """
    turn = first % len(node_ids)
    rotated = [*node_ids[turn:], *node_ids[:turn]]
    heap = [(loads.get(node_id, 0), order, node_id) for order, node_id in enumerate(rotated)]
    heapq.heapify(heap)
    leaders = []
    for _ in range(count):
        load, order, node_id = heap[0]
        leaders.append(node_id)
        heapq.heapreplace(heap, (load + 1, order + len(rotated), node_id))
    return leaders


def place_leader(assigned: Sequence[int], node_ids: Sequence[int], loads: Mapping[int, int]) -> int:
    """Who of `node_ids` (not empty) is to lead a partition: one of its assigned replicas if there is one among them."""
    return min([each for each in assigned if each in node_ids] or node_ids, key=lambda each: (loads.get(each, 0), each))


def replicas_by_ring(leader: int, alive: Mapping[int, str | None], replication_factor: int) -> list[int]:
    """The replica list that clients are shown: the leader, then the alive brokers after it, up to the factor; one of
    each rack before a second one of any.

    `alive` is node id -> rack, by node id. Every alive broker can lead any partition, and consumers read from the
    listed one of their rack, see docs/decisions/0003.
    """
    after = [node_id for node_id in alive if node_id > leader]
    before = [node_id for node_id in alive if node_id < leader]
    seen: Counter[str | None] = Counter()
    turns: dict[int, int] = {}
    for node_id in (leader, *after, *before):
        rack = alive[node_id]
        turns[node_id] = seen[rack] if rack is not None else 0
        seen[rack] += 1
    return sorted(turns, key=turns.__getitem__)[:replication_factor]
