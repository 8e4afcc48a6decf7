"""The assignor `uniform`: everybody gets as many partitions as everybody else, and keeps what it has where that
allows it.

* All members subscribed to the same topics: the numbers of any two members differ by one at most, and no partition
  moves that does not have to.
* Otherwise: no partition could move to a subscriber of its topic that has two less than its owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heapreplace

from broker.coordinator.group.consumer.assignors.api import Subscriber


class UniformAssignor:
    name = "uniform"

    def assign(
        self, members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]
    ) -> dict[str, dict[bytes, frozenset[int]]]:
        if not members:
            return {}
        subscriptions = {each.topic_ids for each in members.values()}
        if len(subscriptions) == 1:
            shares = _homogeneous(members, sorted(subscriptions.pop()), partition_counts)
        else:
            shares = _Heterogeneous(members, partition_counts).run()
        return {
            member_id: {topic_id: frozenset(partitions) for topic_id, partitions in share.items() if partitions}
            for member_id, share in shares.items()
        }


def _homogeneous(
    members: Mapping[str, Subscriber], topic_ids: list[bytes], partition_counts: Mapping[bytes, int]
) -> dict[str, dict[bytes, set[int]]]:
    """Keep up to the quota; what is over goes to who is below it."""
    total = sum(partition_counts[topic_id] for topic_id in topic_ids)
    quota, extra_count = divmod(total, len(members))
    unassigned = {topic_id: set(range(partition_counts[topic_id])) for topic_id in topic_ids}
    shares: dict[str, dict[bytes, set[int]]] = {}
    below: list[tuple[str, int]] = []
    at_quota: list[str] = []
    for member_id in sorted(members):
        share = shares[member_id] = {}
        room = quota + (1 if extra_count else 0)
        target = members[member_id].target
        for topic_id in sorted(target):
            free = unassigned.get(topic_id)
            if not free or not room:
                continue
            kept = target[topic_id] & free
            if len(kept) > room:
                kept = frozenset(sorted(kept)[:room])
            free -= kept
            share[topic_id] = set(kept)
            room -= len(kept)
        missing = room - (1 if extra_count else 0)
        if missing < 0:
            extra_count -= 1
        elif missing:
            below.append((member_id, missing))
        else:
            at_quota.append(member_id)
    rest = ((topic_id, index) for topic_id in topic_ids for index in sorted(unassigned[topic_id]))
    for member_id, missing in below:
        # the extra one goes first to who has to get something anyway
        if extra_count:
            extra_count -= 1
            missing += 1
        share = shares[member_id]
        for _ in range(missing):
            topic_id, index = next(rest)
            share.setdefault(topic_id, set()).add(index)
    for (topic_id, index), member_id in zip(rest, at_quota, strict=False):
        shares[member_id].setdefault(topic_id, set()).add(index)
    return shares


class _Heterogeneous:
    """Retain, give out the rest to who has least, then even out topic by topic until nothing moves any more.

    Every move makes the sum of the squares of the members' numbers smaller, so it ends.
    """

    def __init__(self, members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]) -> None:
        self._members = members
        self._counts = dict.fromkeys(sorted(members), 0)
        self._shares: dict[str, dict[bytes, set[int]]] = {member_id: {} for member_id in self._counts}
        self._subscribers: dict[bytes, list[str]] = {}
        for member_id in self._counts:
            for topic_id in members[member_id].topic_ids:
                self._subscribers.setdefault(topic_id, []).append(member_id)
        # those whose partitions have the fewest places to go to come first
        self._topic_ids = sorted(self._subscribers, key=lambda each: (len(self._subscribers[each]), each))
        self._partition_counts = partition_counts

    def run(self) -> dict[str, dict[bytes, set[int]]]:
        unassigned = self._retain()
        for topic_id in self._topic_ids:
            self._give_out(topic_id, sorted(unassigned[topic_id]))
        moved = True
        while moved:
            moved = False
            for topic_id in self._topic_ids:
                moved |= self._even_out(topic_id)
        return self._shares

    def _retain(self) -> dict[bytes, set[int]]:
        unassigned = {topic_id: set(range(self._partition_counts[topic_id])) for topic_id in self._topic_ids}
        for member_id, share in self._shares.items():
            member = self._members[member_id]
            for topic_id in sorted(member.target):
                if topic_id in member.topic_ids:
                    kept = member.target[topic_id] & unassigned[topic_id]
                    unassigned[topic_id] -= kept
                    share[topic_id] = set(kept)
                    self._counts[member_id] += len(kept)
        return unassigned

    def _give_out(self, topic_id: bytes, partitions: list[int]) -> None:
        if not partitions:
            return
        counts = self._counts
        heap = [(counts[member_id], member_id) for member_id in self._subscribers[topic_id]]
        heapify(heap)
        for index in partitions:
            count, member_id = heap[0]
            self._shares[member_id].setdefault(topic_id, set()).add(index)
            counts[member_id] = count + 1
            heapreplace(heap, (count + 1, member_id))

    def _even_out(self, topic_id: bytes) -> bool:
        """Move partitions of this topic from who has most to who has least, of all topics together."""
        counts, shares = self._counts, self._shares
        subscribers = self._subscribers[topic_id]
        least = [(counts[member_id], member_id) for member_id in subscribers]
        heapify(least)
        most = [(-counts[member_id], member_id) for member_id in subscribers if shares[member_id].get(topic_id)]
        heapify(most)
        moved = False
        while most:
            high, owner = heappop(most)
            low, receiver = least[0]
            if counts[owner] != -high:
                heappush(most, (-counts[owner], owner))
            elif counts[receiver] != low:
                heapreplace(least, (counts[receiver], receiver))
                heappush(most, (high, owner))
            elif -high - low < 2:
                break
            else:
                owned = shares[owner][topic_id]
                index = max(owned)
                owned.discard(index)
                shares[receiver].setdefault(topic_id, set()).add(index)
                counts[owner] -= 1
                counts[receiver] += 1
                moved = True
                heapreplace(least, (counts[receiver], receiver))
                if owned:
                    heappush(most, (-counts[owner], owner))
        return moved
