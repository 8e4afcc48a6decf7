"""What the coordinator asks about topics, and the hash that tells a group that an answer has changed.

`Topics` answers synchronously, always from one and the same moment within an operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple, Protocol

from broker.coordinator.regex import matching


class Topic(NamedTuple):
    name: str
    topic_id: bytes
    partition_count: int


class Topics(Protocol):
    @property
    def generation(self) -> int:
        """Grows with every change of any topic."""

    def topic(self, name: str) -> Topic | None: ...

    def name_of(self, topic_id: bytes) -> str | None: ...

    def matching(self, expression: str) -> frozenset[str]:
        """Names that this regular expression matches as a whole; none if it is not a valid one."""


class MemoryTopics:
    """The in-memory twin: topics are what `put` and `remove` say. Expressions are RE2."""

    def __init__(self) -> None:
        self.generation = 0
        self._topics: dict[str, Topic] = {}

    def put(self, name: str, partition_count: int, topic_id: bytes | None = None) -> Topic:
        self.generation += 1
        known = self._topics.get(name)
        if topic_id is None:
            topic_id = known.topic_id if known is not None else blake2b(name.encode(), digest_size=16).digest()
        topic = self._topics[name] = Topic(name, topic_id, partition_count)
        return topic

    def remove(self, name: str) -> None:
        self.generation += 1
        del self._topics[name]

    def topic(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def name_of(self, topic_id: bytes) -> str | None:
        return next((each.name for each in self._topics.values() if each.topic_id == topic_id), None)

    def matching(self, expression: str) -> frozenset[str]:
        return matching(expression, self._topics)


def metadata_hash(topics: Topics, names: Iterable[str]) -> int:
    """Of these topics as they are now, as the int64 of a record; 0 if none of them exists.

    It is only ever compared with itself: any hash will do that is the same in every process.
    """
    found = sorted(topic for name in names if (topic := topics.topic(name)) is not None)
    if not found:
        return 0
    digest = blake2b(digest_size=8)
    for name, topic_id, partition_count in found:
        encoded = name.encode()
        digest.update(b"%d:%b%b%d" % (len(encoded), encoded, topic_id, partition_count))
    return int.from_bytes(digest.digest(), "big", signed=True)
