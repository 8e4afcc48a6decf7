"""`RefusedBatches`: what idempotent producers were told to send again, because its partition is not served here (yet).

A producer has several batches on their way. If the partition opens behind one that was refused, the next one would be
taken for the first of a producer that nobody knows, and the refused one could never be appended any more. So a
partition that opens here waits for the refused ones first (`Partition.expect`), unless it knows their producers.

Bounded: what is not noted, or forgotten, is accepted as Kafka accepts it, with any first sequence.
"""

from __future__ import annotations

from broker.cluster.image import MetadataImage
from broker.partition.producer_state import NO_PRODUCER_ID
from protocol.errors import InvalidBatch
from protocol.records import BatchHeader, validate_batches
from protocol.types import ZERO_UUID

KEPT_MS = 10_000
"""What was sent before a refusal was known has arrived by then."""
PLACES_MAX = 1000
PRODUCERS_MAX = 100
"""Of one partition."""

Place = tuple[bytes | str, int]
"""Topic id, or the name of a topic that was not known; partition index."""
_NOTHING: tuple[int, dict[int, BatchHeader]] = (0, {})


class RefusedBatches:
    """`now_ms` is wall-clock time."""

    def __init__(self, image: MetadataImage) -> None:
        self._image = image
        self._places: dict[Place, tuple[int, dict[int, BatchHeader]]] = {}
        """Until when they are kept, in this order, and the first of each producer id."""

    def __len__(self) -> int:
        return len(self._places)

    def note(self, topic: str, topic_id: bytes, index: int, records: memoryview | None, now_ms: int) -> None:
        """This batch is refused, and its producer sends it again. `topic_id`: zeros if it was asked for by name."""
        try:
            header = validate_batches(records)
        except InvalidBatch:
            return
        if header.producer_id == NO_PRODUCER_ID:
            return
        if (info := self._image.topic(topic)) is not None:
            topic_id = info.topic_id.bytes
        place = (topic if topic_id == ZERO_UUID else topic_id, index)
        until_ms, former = self._places.pop(place, _NOTHING)
        first = former if now_ms < until_ms else {}
        earlier = first.get(header.producer_id)
        if len(first) < PRODUCERS_MAX if earlier is None else earlier.producer_epoch < header.producer_epoch:
            first[header.producer_id] = header
        self._places[place] = (now_ms + KEPT_MS, first)
        if len(self._places) > PLACES_MAX:
            del self._places[next(iter(self._places))]

    def take(self, topic: str, topic_id: bytes, index: int, now_ms: int) -> list[BatchHeader]:
        """The first refused batches of a partition that is served from now on, one per producer at least."""
        found: list[BatchHeader] = []
        for place in ((topic, index), (topic_id, index)):
            until_ms, first = self._places.pop(place, _NOTHING)
            if now_ms < until_ms:
                found += first.values()
        return found
