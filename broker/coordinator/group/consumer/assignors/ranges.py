"""The assignor `range`: of each topic, everybody gets one run of neighbouring partitions.

* Topics with as many partitions and the same subscribers are cut in the same places, and the same member gets the same
  partitions of each: joins of such topics find both sides at one member.
* The order of the members is that of the runs they have had, so that who stays keeps most of it; new ones come last.
  Without former runs it is by instance id, then by member id.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.coordinator.group.consumer.assignors.api import Subscriber


class RangeAssignor:
    name = "range"

    def assign(
        self, members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]
    ) -> dict[str, dict[bytes, frozenset[int]]]:
        subscribers: dict[bytes, list[str]] = {}
        for member_id in sorted(members):
            for topic_id in members[member_id].topic_ids:
                subscribers.setdefault(topic_id, []).append(member_id)
        alike: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}
        for topic_id in sorted(subscribers):
            alike.setdefault((partition_counts[topic_id], tuple(subscribers[topic_id])), []).append(topic_id)
        assigned: dict[str, dict[bytes, frozenset[int]]] = {member_id: {} for member_id in members}
        for (partition_count, member_ids), topic_ids in alike.items():
            quota, extra_count = divmod(partition_count, len(member_ids))
            start = 0
            for place, member_id in enumerate(_in_order(member_ids, topic_ids, members)):
                end = start + quota + (1 if place < extra_count else 0)
                if end > start:
                    run = frozenset(range(start, end))
                    for topic_id in topic_ids:
                        assigned[member_id][topic_id] = run
                start = end
        return assigned


def _in_order(member_ids: tuple[str, ...], topic_ids: list[bytes], members: Mapping[str, Subscriber]) -> list[str]:
    def place(member_id: str) -> tuple[bool, int, bool, str, str]:
        member = members[member_id]
        first = min((min(had) for each in topic_ids if (had := member.target.get(each))), default=-1)
        return first < 0, first, member.instance_id is None, member.instance_id or "", member_id

    return sorted(member_ids, key=place)
