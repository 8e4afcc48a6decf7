"""The cluster while a plan is made: who leads what and carries how much, after each move that has been decided on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from uuid import UUID

from broker.balance.model import IDLE, BrokerState, Key, Load, PartitionState

FLOORS = Load(bytes_in=1e6, bytes_out=1e6, requests=200.0, cpu=0.2)
"""Brokers that differ by less than a share of this are alike, however little there is to do."""
_CPU_PER_REQUEST = 30e-6
_CPU_PER_BYTE = 2e-9
"""Roughly what a request and a byte cost. Only their proportion counts."""
_CPU_FACTOR_MAX = 2.0
"""How much dearer the same work may seem at one broker than on average."""

DIMENSIONS = range(len(Load._fields))
_CPU = Load._fields.index("cpu")


class ClusterLoad:
    """A partition that moves already, or was moved, counts where it goes, and does not move again. `receivers` may be
    given something. Partitions whose leader is not alive are left to failover.
    """

    def __init__(self, brokers: Iterable[BrokerState], partitions: Iterable[PartitionState]) -> None:
        self.brokers = {each.node_id: each for each in sorted(brokers)}
        self.draining = [node_id for node_id, each in self.brokers.items() if each.draining]
        self.receivers = [node_id for node_id, each in self.brokers.items() if each.accepts and not each.draining]
        self.led: Counter[int] = Counter()
        self.led_of_topic: Counter[tuple[int, UUID]] = Counter()
        self.partitions_of_topic: Counter[UUID] = Counter()
        self.carried: dict[int, list[float]] = {node_id: [0.0] * len(Load._fields) for node_id in self.brokers}
        self._movable: dict[int, dict[UUID, dict[Key, PartitionState]]] = {node_id: {} for node_id in self.brokers}
        self.moving_count = 0
        self._factors = dict.fromkeys(self.brokers, 1.0)
        for each in self._share_out_cpu(partitions):
            self._add(each)
        self.scales = self._scales()

    def _add(self, partition: PartitionState) -> None:
        leader, target = partition.leader, partition.target
        place = target if target is not None and target in self.brokers else leader
        if target is not None:
            self.moving_count += 1
        elif leader in self.brokers:
            self._movable[leader].setdefault(partition.topic_id, {})[partition.key] = partition
        self.partitions_of_topic[partition.topic_id] += 1
        if place in self.brokers:
            self._count(partition, place, 1)

    def _count(self, partition: PartitionState, node_id: int, sign: int) -> None:
        self.led[node_id] += sign
        self.led_of_topic[node_id, partition.topic_id] += sign
        if partition.load is not IDLE:
            carried = self.carried[node_id]
            for dimension in DIMENSIONS:
                carried[dimension] += sign * self.amount(partition.load, node_id, dimension)

    def _share_out_cpu(self, partitions: Iterable[PartitionState]) -> list[PartitionState]:
        """A partition costs what it has to do, at the average of all brokers; `_factors` says how much dearer the same
        is at one broker. What that does besides says little of its partitions, hence the bounds."""
        listed = sorted(partitions, key=lambda each: (not each.settled, -_weight(each.load), each.key))
        weights: defaultdict[int, float] = defaultdict(float)
        for each in listed:
            weights[each.leader] += _weight(each.load)
        measured = {node_id: each.load.cpu for node_id, each in self.brokers.items() if each.load is not None}
        weight = sum(weights[node_id] for node_id in measured)
        rate = sum(measured.values()) / weight if weight else 0.0
        for node_id, cpu in measured.items():
            factor = (cpu + FLOORS.cpu) / (weights[node_id] * rate + FLOORS.cpu)
            self._factors[node_id] = min(max(factor, 1 / _CPU_FACTOR_MAX), _CPU_FACTOR_MAX)
        return [
            each if each.load is IDLE else each._replace(load=each.load._replace(cpu=_weight(each.load) * rate))
            for each in listed
        ]

    def _scales(self) -> tuple[float, ...]:
        """What the differences between receivers are compared with, per dimension: their average, or the floor."""
        count = max(1, len(self.receivers))
        return tuple(
            max(sum(self.carried[each][dimension] for each in self.receivers) / count, FLOORS[dimension])
            for dimension in DIMENSIONS
        )

    # -- questions ----------------------------------------------------------------------------------------------------
    def movable(self, node_id: int) -> Iterator[PartitionState]:
        """What may be moved away from a broker; of each topic what has not moved for a while and is busiest first."""
        for partitions in self._movable[node_id].values():
            yield from partitions.values()

    def movable_topics(self, node_id: int) -> Iterator[tuple[UUID, Iterable[PartitionState]]]:
        """The same by topic, that with the busiest partition first."""
        for topic_id, partitions in self._movable[node_id].items():
            if partitions:
                yield topic_id, partitions.values()

    def average_led(self) -> float:
        return sum(self.led[each] for each in self.receivers) / len(self.receivers)

    def average(self, dimension: int) -> float:
        return sum(self.carried[each][dimension] for each in self.receivers) / len(self.receivers)

    def amount(self, load: Load, node_id: int, dimension: int) -> float:
        """What this load comes to at a broker."""
        return load[dimension] * self._factors[node_id] if dimension == _CPU else load[dimension]

    def unevenness(self, one: int, other: int, given: Load = IDLE, taken: Load = IDLE) -> float:
        """The squares of what two brokers carry, in all dimensions, if `one` gave this to `other` and took that."""
        total = 0.0
        for dimension in DIMENSIONS:
            moved = given[dimension] - taken[dimension]
            from_one, to_other = moved, moved
            if dimension == _CPU:
                from_one, to_other = moved * self._factors[one], moved * self._factors[other]
            scale = self.scales[dimension]
            total += ((self.carried[one][dimension] - from_one) / scale) ** 2
            total += ((self.carried[other][dimension] + to_other) / scale) ** 2
        return total

    def fullness(self, node_id: int) -> float:
        """The load of a broker in its worst dimension, 1.0 being the average."""
        carried = self.carried[node_id]
        return max(carried[each] / self.scales[each] for each in DIMENSIONS)

    def may_be_at(self, partition: PartitionState, node_id: int) -> bool:
        """Partitions that were assigned by hand stay among the brokers of their assignment."""
        return not partition.replicas or node_id in partition.replicas

    # -- moves --------------------------------------------------------------------------------------------------------
    def move(self, partition: PartitionState, target: int) -> None:
        del self._movable[partition.leader][partition.topic_id][partition.key]
        self._count(partition, partition.leader, -1)
        self._count(partition, target, 1)


def _weight(load: Load) -> float:
    return load.requests * _CPU_PER_REQUEST + (load.bytes_in + load.bytes_out) * _CPU_PER_BYTE
