"""`MoveHistory`: when partitions changed their leader last, as the metadata told, whoever moved them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from broker.balance.model import Key
from s3stream.catalog.api import TopicInfo


class MoveHistory:
    """Pure: `now_s` is on any clock that only goes forward. Forgets what is older than it is asked for."""

    def __init__(self, topics: Iterable[TopicInfo]) -> None:
        self._leaders = {topic.topic_id: _leaders(topic) for topic in topics}
        self._moved_at: dict[Key, float] = {}

    def follow(self, topics: Mapping[UUID, TopicInfo | None], now_s: float) -> None:
        for topic_id, topic in topics.items():
            former = self._leaders.pop(topic_id, ())
            if topic is None:
                continue
            leaders = self._leaders[topic_id] = _leaders(topic)
            for index, (before, after) in enumerate(zip(former, leaders, strict=False)):
                if before != after:
                    self._moved_at[topic_id, index] = now_s

    def moved_since(self, since_s: float) -> frozenset[Key]:
        self._moved_at = {key: at for key, at in self._moved_at.items() if at > since_s}
        return frozenset(self._moved_at)


def _leaders(topic: TopicInfo) -> tuple[int, ...]:
    return tuple(each.leader for each in topic.partitions)
