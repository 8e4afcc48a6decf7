"""What can be wrong with a store, by name. The names are for users and scripts: once given they stay.

A **problem** is damage: something is lost, costs money for ever, or keeps a broker from starting. A **note** is a state
that the brokers bring in order by themselves (a log that waits for its recovery, objects that wait for their deletion).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Offsets [start, end) of a stream, `what` it is: "orders-3", or "state of orders-3"."""

    stream_id: int
    what: str
    start_offset: int
    end_offset: int

    def __str__(self) -> str:
        return f"{self.what} offsets {self.start_offset} to {self.end_offset - 1}"


MEANINGS: Mapping[str, str] = {
    "foreign-bucket": "the bucket belongs to another cluster: nothing else was looked at, nothing is repaired",
    "missing-object": "the catalog counts on an object that is not in the bucket",
    "corrupt-object": "an object's footer or index is damaged: nothing in it can be found",
    "corrupt-block": "a data block fails its checksum: its records cannot be read",
    "wrong-size": "the catalog has another size for an object than the bucket: its index is not found",
    "wrong-range": "the catalog says that an object holds other offsets than its index does",
    "unreadable-row": "the catalog's list of what is in an object cannot be read",
    "wrong-witness": "the catalog keeps an object for what another one holds: it is let go too late, or never",
    "gap": "offsets that are in no object: what opens the stream stops there",
    "overlap": "offsets that are in two objects",
    "beyond-end": "objects reach beyond the end that the catalog has for the stream",
    "orphan": "an object that the catalog does not know: it costs money",
    "newer-than-catalog": "an object with an id that the catalog has not given out yet: the database is older than the "
    "bucket, and brokers would overwrite it; nothing is repaired",
    "counter-behind": "the catalog would give out ids that are in use",
    "partition-without-stream": "a partition's stream is not in the catalog: it cannot be opened",
    "stream-without-partition": "a stream that no partition has: what it holds cannot be read",
    "partition-without-topic": "a partition of a topic that is not in the catalog",
    "missing-partition": "a topic's partitions are not numbered from 0 on without a hole",
    "stale-owner": "a stream is open at a broker that will never close it: nobody can open it",
    "log-missing": "the write-ahead log of a broker that crashed cannot be found: what it had acknowledged and not "
    "uploaded is missing",
    "log-corrupt": "a write-ahead log is damaged before its end",
    "log-foreign": "a write-ahead log belongs to another cluster",
    "log-gap": "a write-ahead log goes on after the end of what is in objects: no broker starts with it",
    "log-ahead": "a write-ahead log does not fit the catalog's idea of the stream: the database is older than it",
}
"""Kinds of problems and what they mean."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `subject` is an object key, a stream, a counter; `data` what cannot be read for it."""

    kind: str
    subject: str
    detail: str
    data: tuple[Span, ...] = ()
    object_id: int | None = None

    def __str__(self) -> str:
        text = f"{self.kind}: {self.subject}: {self.detail}"
        return f"{text}; {'; '.join(map(str, self.data))}" if self.data else text


@dataclass(slots=True)
class Report:
    """What a check found."""

    problems: list[Finding]
    notes: list[str]
    object_count: int = 0
    object_size: int = 0
    stream_count: int = 0

    def of(self, *kinds: str) -> Iterable[Finding]:
        return (finding for finding in self.problems if finding.kind in kinds)
