"""What the streams of a simulated day hold: every batch says itself what it is, so that a reader proves bytes.

A log compacted by key may lose a batch from the moment a pass drops it (`dropped`), and has lost it for good when the
pass is through (`purge`). In between readers may see it or not; everything else they see or do not see is a violation.
"""

from __future__ import annotations

import random
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from s3stream.api import FetchResult
from s3stream.object.writer import Batch
from wal.api import Buffer

_HEADER = struct.Struct(">IIQIHB")
_PRUNE_COUNT = 512


@dataclass(frozen=True, slots=True)
class Kind:
    """How a stream lives. `period_s` between two batches; -1 retains without limit; `keys` > 0: compacted by key."""

    period_s: float
    size_max: int
    retention_ms: int = -1
    retention_bytes: int = -1
    keys: int = 0


KINDS = (
    (3, Kind(0.7, 400, retention_ms=3_600_000)),
    (2, Kind(3, 1200, retention_bytes=150_000)),
    (3, Kind(4, 300, retention_ms=7_200_000, retention_bytes=400_000)),
    (2, Kind(5, 100)),
    (2, Kind(2, 200, keys=20)),
    (2, Kind(20, 300, retention_ms=14_400_000, keys=50)),
    (6, Kind(60, 300)),
    (6, Kind(300, 2_000, retention_ms=3_600_000)),
    (10, Kind(1800, 100)),
)
"""How many streams there are of which kind."""


def encode(stream_id: int, base: int, count: int, key: int, filler: bytes, *, is_empty: bool = False) -> bytes:
    size = _HEADER.size + len(filler)
    return _HEADER.pack(size, stream_id, base, count, key, is_empty) + filler


@dataclass(frozen=True, slots=True)
class Parsed:
    stream_id: int
    base: int
    count: int
    key: int
    is_empty: bool
    data: bytes


def parse(data: Buffer) -> Iterator[Parsed]:
    position = 0
    view = memoryview(data)
    while position < len(view):
        size, stream_id, base, count, key, is_empty = _HEADER.unpack_from(view, position)
        yield Parsed(stream_id, base, count, key, bool(is_empty), bytes(view[position : position + size]))
        position += size


@dataclass(slots=True)
class ModelStream:
    """Parallel lists of the batches that are there. `confirmed_offset` never goes back, whatever fails."""

    stream_id: int
    kind: Kind
    start_offset: int = 0
    safe_start_offset: int = 0
    """Below it everything was trimmed for good."""
    next_offset: int = 0
    confirmed_offset: int = 0
    passes: int = 0
    """Passes of compaction by key that are through."""
    bases: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    last_of_key: dict[int, int] = field(default_factory=dict)

    def make(self, rng: random.Random) -> tuple[bytes, int]:
        count = rng.choice((1, 1, 3, 20))
        key = rng.randrange(self.kind.keys) if self.kind.keys else 0
        filler = rng.randbytes(rng.randrange(self.kind.size_max))
        return encode(self.stream_id, self.next_offset, count, key, filler), count

    def append(self, base: int, count: int, time_ms: int, data: bytes) -> None:
        assert base == self.next_offset
        self.next_offset = base + count
        self.bases.append(base)
        self.ends.append(base + count)
        self.times.append(time_ms)
        self.data.append(data)
        if self.kind.keys:
            self.last_of_key[next(parse(data)).key] = base

    def adopt(self, start_offset: int, next_offset: int) -> None:
        """The stream as it was found when it was opened: all that was confirmed is there, and of the rest a prefix."""
        assert next_offset >= self.confirmed_offset, f"stream {self.stream_id}: a confirmed batch is lost"
        assert self.safe_start_offset <= start_offset <= self.start_offset, f"{self.stream_id} begins at {start_offset}"
        self.start_offset = start_offset
        count = bisect_right(self.ends, next_offset)
        assert next_offset in (self.start_offset, self.ends[count - 1] if count else 0, self.confirmed_offset)
        lost = self.bases[count:]
        for column in (self.bases, self.ends, self.times, self.data):
            del column[count:]
        self.next_offset = self.confirmed_offset = next_offset
        if lost and self.kind.keys:
            self.last_of_key = {next(parse(data)).key: base for base, data in zip(self.bases, self.data, strict=True)}

    def trimmed(self, start_offset: int) -> None:
        self.safe_start_offset = max(self.safe_start_offset, start_offset)
        count = bisect_right(self.ends, self.safe_start_offset)
        if count >= _PRUNE_COUNT:
            for column in (self.bases, self.ends, self.times, self.data):
                del column[:count]

    # -- what readers may see ----------------------------------------------------------------------------------------

    def check(self, offset: int, max_size: int, end_offset: int, result: FetchResult, passes: int) -> int:
        """`passes`: how many were through when the read began. Returns how many batches there were."""
        where = f"stream {self.stream_id}, read at {offset}"
        assert result.size == sum(map(len, result.buffers)), where
        if result.next_offset == offset:
            assert not result.size, where
            assert offset >= min(end_offset, self.confirmed_offset), f"{where}: nothing, but there is something"
            return 0
        first = bisect_right(self.ends, offset)
        stop = bisect_left(self.bases, result.next_offset)
        found = b"".join(result.buffers)
        assert result.next_offset <= self.confirmed_offset, f"{where}: an unconfirmed batch was read"
        if not self.kind.keys:
            assert found == b"".join(self.data[first:stop]), f"{where}: other bytes than were appended"
            assert self.ends[stop - 1] == result.next_offset, f"{where}: ends within a batch"
            assert self.bases[stop - 1] < end_offset, f"{where}: goes on behind the end that was asked for"
            assert len(found) <= max_size or stop - first == 1, f"{where}: more than was asked for"
            return stop - first
        seen = [each for each in parse(found) if not each.is_empty]
        expected = dict(zip(self.bases[first:stop], self.data[first:stop], strict=True))
        for each in seen:
            if expected.get(each.base) != each.data:
                assert each.base not in expected, f"{where}: other bytes than were appended at {each.base}"
                assert passes < self.passes, f"{where}: {each.base} was dropped"
        assert [each.base for each in seen] == sorted(each.base for each in seen), f"{where}: not in order"
        missing = expected.keys() - {each.base for each in seen} - self.dropped
        assert not missing, f"{where}: {sorted(missing)} are missing"
        return len(seen)

    def check_seek(self, timestamp: int, found: int | None) -> None:
        """`found` may be the begin of the block that has the first such batch."""
        number = max(bisect_left(self.times, timestamp), bisect_right(self.ends, self.start_offset))
        if number == len(self.bases) or self.bases[number] >= self.confirmed_offset:
            assert found is None, f"stream {self.stream_id}: nothing is as young as {timestamp}, but {found} was found"
            return
        assert found is not None, f"stream {self.stream_id}: nothing was found from {timestamp} on"
        assert self.start_offset <= found <= max(self.bases[number], self.start_offset), (
            f"stream {self.stream_id}: {found} was found for {timestamp}, it is {self.bases[number]}"
        )

    # -- compaction by key -------------------------------------------------------------------------------------------

    def index(self, last: dict[int, int], batches: Iterable[Buffer], dirty_offset: int, end_offset: int) -> None:
        """Into `last`: the last batch of each key within these offsets."""
        for data in batches:
            [found] = parse(data)
            if dirty_offset <= found.base < end_offset and not found.is_empty:
                last[found.key] = found.base

    def drop(self, bases: Iterable[int]) -> None:
        for base in bases:
            at = bisect_left(self.bases, base)
            if at < len(self.bases) and self.bases[at] == base:
                key = next(parse(self.data[at])).key
                assert self.last_of_key[key] > base, "the last batch of a key is dropped"
                self.dropped.add(base)

    def purge(self) -> None:
        """A pass is through: what it dropped is never seen again."""
        kept = [number for number, base in enumerate(self.bases) if base not in self.dropped]
        self.bases = [self.bases[number] for number in kept]
        self.ends = [self.ends[number] for number in kept]
        self.times = [self.times[number] for number in kept]
        self.data = [self.data[number] for number in kept]
        self.dropped.clear()
        self.passes += 1


class KeyFilter:
    """A `BatchFilter` that keeps, below `end_offset`, the last batch of each key of `last`."""

    def __init__(self, model: ModelStream, last: dict[int, int], end_offset: int) -> None:
        self._model = model
        self._last = last
        self._end_offset = end_offset
        self._last_dropped: Batch | None = None
        self._dropping: list[int] = []
        self.count = 0

    async def filter(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        kept: list[Batch] = []
        for batch in batches:
            [found] = parse(batch[3])
            is_superseded = found.is_empty or found.base < self._last.get(found.key, -1)
            if found.base < self._end_offset and is_superseded:
                self._last_dropped = batch
                if not found.is_empty:
                    self._dropping.append(found.base)
            else:
                self._last_dropped = None
                kept.append(batch)
        return kept

    async def seal(self) -> Batch | None:
        if self._last_dropped is None:
            return None
        base, count, timestamp, data = self._last_dropped
        [found] = parse(data)
        return base, count, timestamp, encode(found.stream_id, found.base, found.count, found.key, b"", is_empty=True)

    async def before_commit(self) -> None:
        self._model.drop(self._dropping)
        self.count += len(self._dropping)
        self._dropping = []
