"""Segments of an open log: which are prepared, which are in use, and the writing of frames into them.

`SegmentPool` prepares segments ahead and takes back trimmed ones; its methods belong to one background thread. The
writing thread takes a prepared segment from `ready` and hands a full one over by `seal`. `SegmentWriter` lays out
frames. Both are synchronous and know nothing of threads, so that tests can drive them step by step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from wal.api import Buffer
from wal.file.checkpoint import CheckpointFile
from wal.file.files import File, Files
from wal.file.format import (
    FRAME_HEADER_SIZE,
    RECORD_OVERHEAD,
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    State,
    encode_frame,
    seed_of,
    segment_name,
    segment_sequence,
)

FRAME_SIZE_MAX = 4 << 20
"""A group commit is cut into frames of this size, unless one record is bigger."""
TRIM_STEP_SIZE = 1 << 20
"""So much is trimmed before a checkpoint says so: what a recovery looks at in vain, at most."""


class Segment:
    """A prepared or used file. `end_position` is known once it is sealed."""

    __slots__ = ("end_position", "file", "sequence")

    def __init__(self, sequence: int, file: File) -> None:
        self.sequence = sequence
        self.file = file
        self.end_position = -1


class SegmentPool:
    """Invariant: a segment in `ready` has a durable name, a sequence above all before it and no valid header."""

    def __init__(
        self,
        files: Files,
        checkpoint: CheckpointFile,
        *,
        segment_size: int,
        segment_count_max: int,
        spare_count: int,
        kept_count: int,
    ) -> None:
        self._files = files
        self._checkpoint = checkpoint
        self._segment_size = segment_size
        self._count_max = segment_count_max
        self._spare_count = spare_count
        self._kept_count = kept_count
        self._next_sequence = 1
        self._sealed: deque[Segment] = deque()
        self._unnamed: deque[Segment] = deque()
        """Empty segments whose names are not durable yet."""
        self.count = 0
        """Segments that exist, in whatever state."""
        self.ready: SimpleQueue[Segment | None] = SimpleQueue()

    def adopt(self) -> None:
        """Reuse what an earlier, empty log left behind, and make sure of one segment. Raises OSError."""
        names = {sequence: name for name in self._files.names() if (sequence := segment_sequence(name)) is not None}
        self._next_sequence = max(names, default=0) + 1
        for _, name in sorted(names.items()):
            file = self._files.open(name)
            keep = file.size() == self._segment_size and self.count < min(self._kept_count, self._count_max)
            if keep:
                self.count += 1
                self._recycle(name, file)
            else:
                file.close()
                self._files.remove(name)
        if self.count == 0:
            # Zeros are for the later ones, which are made in the background: start-up does not wait for them.
            self._create(fill=False)
        self._publish()

    def prepare(self) -> bool:
        """Make at most one segment. False if there are enough ready ones, or there may be no more. Raises OSError."""
        if self._unnamed:
            # An earlier sync failed.
            self._publish()
        if self.ready.qsize() >= self._spare_count or self.count >= self._count_max:
            return False
        self._create(fill=True)
        self._publish()
        return True

    @property
    def exhausted(self) -> bool:
        """The log has reached its greatest size: only trimming makes room."""
        return self.count >= self._count_max and self.ready.empty()

    def seal(self, segment: Segment, end_position: int) -> None:
        """`segment` is full; every record in it ends at or before `end_position`. Called by the writing thread."""
        segment.end_position = end_position
        self._sealed.append(segment)

    def release(self, trim_position: int, durable_position: int) -> None:
        """Recycle or remove the segments that hold nothing after `trim_position`, and tell a later recovery now and
        then how far that is. Raises OSError."""
        sealed = self._sealed
        current = self._checkpoint.current
        is_full = bool(sealed) and sealed[0].end_position <= trim_position
        if not is_full and trim_position - current.trim_position < TRIM_STEP_SIZE:
            return
        # Persisted first: recovery must not take the recycled segment for a lost one.
        self._checkpoint.write(
            State.OPEN,
            epoch=current.epoch,
            trim_position=trim_position,
            end_position=max(durable_position, trim_position),
        )
        if not is_full:
            return
        while sealed and sealed[0].end_position <= trim_position:
            segment = sealed[0]
            if self.ready.qsize() + len(self._unnamed) < self._kept_count:
                self._recycle(segment_name(segment.sequence), segment.file)
            else:
                self._files.remove(segment_name(segment.sequence))
                segment.file.close()
                self.count -= 1
            sealed.popleft()
        self._publish()

    def close(self) -> None:
        while not self.ready.empty():
            segment = self.ready.get()
            if segment is not None:
                segment.file.close()
        for segment in (*self._sealed, *self._unnamed):
            segment.file.close()

    def _publish(self) -> None:
        """Make names durable, and only then give out what bears them: a record is as durable as its file's name."""
        self._files.sync()
        while self._unnamed:
            self.ready.put(self._unnamed.popleft())

    def _create(self, *, fill: bool) -> None:
        sequence = self._take_sequence()
        file = self._files.create(segment_name(sequence), self._segment_size, fill=fill)
        self.count += 1
        self._unnamed.append(Segment(sequence, file))

    def _recycle(self, name: str, file: File) -> None:
        sequence = self._take_sequence()
        self._files.rename(name, segment_name(sequence))
        self._unnamed.append(Segment(sequence, file))

    def _take_sequence(self) -> int:
        sequence = self._next_sequence
        self._next_sequence += 1
        return sequence


class SegmentWriter:
    """Lays frames into segments. `take` returns the next empty segment, waiting for it if need be."""

    def __init__(
        self,
        take: Callable[[], Segment],
        seal: Callable[[Segment, int], None],
        *,
        log_id: int,
        epoch: int,
        position: int,
        segment_size: int,
    ) -> None:
        self._take = take
        self._seal = seal
        self._log_id = log_id
        self._seed = seed_of(log_id)
        self._epoch = epoch
        self._segment_size = segment_size
        self._frame_size_max = min(FRAME_SIZE_MAX, segment_size // 4)
        self._segment: Segment | None = None
        self._offset = segment_size
        self._chain = 0
        self.position = position

    @property
    def room(self) -> int:
        """Bytes left in the segment that is being written."""
        return self._segment_size - self._offset

    def has_room(self, size: int) -> bool:
        """Whether records that take `size` log bytes are one frame, in the segment that is being written."""
        return size <= self._frame_size_max and FRAME_HEADER_SIZE + size <= self._segment_size - self._offset

    def write(self, records: list[Sequence[Buffer]], sizes: list[int]) -> Iterator[int]:
        """Write and sync one frame after the other, yielding the durable position after each. Raises OSError."""
        total = sum(sizes) + RECORD_OVERHEAD * len(sizes)
        if total <= self._frame_size_max:
            self._write_frame(records, sizes, total)
            yield self.position
            return
        start = size = 0
        for index, record_size in enumerate(sizes):
            record_size += RECORD_OVERHEAD
            if size and size + record_size > self._frame_size_max:
                self._write_frame(records[start:index], sizes[start:index], size)
                yield self.position
                start, size = index, 0
            size += record_size
        self._write_frame(records[start:], sizes[start:], size)
        yield self.position

    def close(self) -> None:
        if self._segment is not None:
            self._segment.file.close()
            self._segment = None

    def _write_frame(self, records: list[Sequence[Buffer]], sizes: list[int], size: int) -> None:
        frame_size = FRAME_HEADER_SIZE + size
        segment = self._segment
        if segment is None or self._offset + frame_size > self._segment_size:
            segment = self._roll_over()
        pieces, chain = encode_frame(records, sizes, self._epoch, self.position, self._chain, self._seed)
        segment.file.write(pieces, self._offset)
        self._offset += frame_size
        self._chain = chain
        self.position += size

    def _roll_over(self) -> Segment:
        if self._segment is not None:
            self._seal(self._segment, self.position)
            self._segment = None
            self._offset = self._segment_size
        segment = self._take()
        header = SegmentHeader(
            self._chain, self._log_id, segment.sequence, self._epoch, self.position, self._segment_size
        )
        segment.file.write([header.encode()], 0)
        self._segment = segment
        self._offset = SEGMENT_HEADER_SIZE
        return segment
