"""The metadata image as consumer groups ask it about topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.coordinator.group.consumer.topics import Topic
from broker.coordinator.regex import matching

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage

_EXPRESSIONS_MAX = 1_000
"""Regular expressions whose topics are remembered."""


class _Matches(NamedTuple):
    """`matched` are those of `names` that match."""

    names: frozenset[str]
    matched: frozenset[str]


class ImageTopics:
    """Each expression is matched with each topic's name once, whatever else changes, as long as it is remembered."""

    def __init__(self, image: MetadataImage) -> None:
        self._image = image
        self._names: frozenset[str] = frozenset()
        self._names_generation = -1
        self._matches: dict[str, _Matches] = {}

    @property
    def generation(self) -> int:
        return self._image.generation

    def topic(self, name: str) -> Topic | None:
        info = self._image.topic(name)
        return None if info is None else Topic(name, info.topic_id.bytes, len(info.partitions))

    def name_of(self, topic_id: bytes) -> str | None:
        info = self._image.topic_by_id(topic_id)
        return None if info is None else info.name

    def matching(self, expression: str) -> frozenset[str]:
        names = self._current_names()
        known = self._matches.pop(expression, None)
        if known is None:
            matches = _Matches(names, matching(expression, names))
        elif known.names is names:
            matches = known
        else:
            matches = _Matches(names, (known.matched & names) | matching(expression, names - known.names))
        if len(self._matches) >= _EXPRESSIONS_MAX:
            del self._matches[next(iter(self._matches))]
        self._matches[expression] = matches
        return matches.matched

    def _current_names(self) -> frozenset[str]:
        """The same object as long as it is the same names."""
        if self._names_generation != self._image.generation:
            self._names_generation = self._image.generation
            names = frozenset(topic.name for topic in self._image.topics())
            if names != self._names:
                self._names = names
        return self._names
