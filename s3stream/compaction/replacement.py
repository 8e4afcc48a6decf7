"""What compaction wants to put in the place of what: for the catalog, and for the streams that are open here. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s3stream.catalog.api import NewObject, StreamRange
from s3stream.committed_ranges import ObjectRef

Located = tuple[StreamRange, ObjectRef]


@dataclass(frozen=True, slots=True)
class Replacement:
    """`removed`: ranges and where they are; `added`: new objects and where these are."""

    removed: Sequence[Located]
    added: Sequence[tuple[NewObject, ObjectRef]]

    def by_object(self) -> dict[int, list[StreamRange]]:
        """What is taken out of each object."""
        found: defaultdict[int, list[StreamRange]] = defaultdict(list)
        for each, ref in self.removed:
            found[ref.object_id].append(each)
        return dict(found)

    def runs(self) -> Iterator[tuple[int, list[Located], list[Located]]]:
        """(stream id, removed, added) for each run of adjacent offsets of a stream."""
        added: defaultdict[int, list[Located]] = defaultdict(list)
        for new, ref in self.added:
            for each in new.ranges:
                added[each.stream_id].append((each, ref))
        run: list[Located] = []
        for located in sorted(self.removed, key=lambda pair: (pair[0].stream_id, pair[0].start_offset)):
            if run and not _adjacent(run[-1][0], located[0]):
                yield _run(run, added)
                run = []
            run.append(located)
        if run:
            yield _run(run, added)


def _adjacent(one: StreamRange, other: StreamRange) -> bool:
    return one.stream_id == other.stream_id and one.end_offset == other.start_offset


def _run(run: list[Located], added: dict[int, list[Located]]) -> tuple[int, list[Located], list[Located]]:
    stream_id, start, end = run[0][0].stream_id, run[0][0].start_offset, run[-1][0].end_offset
    fitting = [pair for pair in added[stream_id] if pair[0].start_offset < end and pair[0].end_offset > start]
    return stream_id, run, sorted(fitting, key=lambda pair: pair[0].start_offset)
