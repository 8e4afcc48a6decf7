"""Reads a log that nobody appends to, and tells a torn tail from corruption (see `wal.file.format`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from wal.api import WalCorrupt, WalRecord
from wal.file.files import File, Files
from wal.file.format import (
    CHECKPOINT_NAME,
    FRAME_HEADER_SIZE,
    FRAME_MAGIC_BYTES,
    RECORD_OVERHEAD,
    SEGMENT_HEADER_SIZE,
    Checkpoint,
    FrameHeader,
    SegmentHeader,
    State,
    decode_frame_header,
    frame_is_intact,
    frame_sizes,
    seed_of,
    segment_name,
    segment_sequence,
)

_WINDOW_SIZE = 4 << 20
LOOK_BEYOND_SIZE = 8 << 20
"""How far behind the end of the log an intact frame is looked for, which would mean that what is before it was damaged:
twice as far as the largest frame (of more than one record) reaches. Segments hold frames of their former lives, and
to look at all of them would take longer than everything else of a recovery."""


class LogReader:
    """One pass over the records after the trim position. Changes nothing."""

    def __init__(self, files: Files, checkpoint: Checkpoint) -> None:
        self._files = files
        self._checkpoint = checkpoint
        self._seed = seed_of(checkpoint.log_id)
        self.end_position = checkpoint.trim_position
        """The position after the last intact record, once `records` is exhausted."""

    def records(self) -> Iterator[list[WalRecord]]:
        """Chunks of a few MiB. Raises WalCorrupt, OSError."""
        checkpoint = self._checkpoint
        if checkpoint.state is State.DISCARDED or (
            checkpoint.state is State.CLEAN and checkpoint.trim_position == checkpoint.end_position
        ):
            self.end_position = checkpoint.end_position
            return
        live, suspect = self._segments()
        # The trimmed ones may still be there: the trim position is persisted before they are reused.
        while len(live) > 1 and live[1].position <= checkpoint.trim_position:
            live.pop(0)
        if live and live[0].position > checkpoint.trim_position:
            raise WalCorrupt(
                f"{self._path(live[0].sequence)}, byte 0: the log begins at position {live[0].position}, "
                f"records from {checkpoint.trim_position} on are missing"
            )
        place = f"{self._files.path}/{CHECKPOINT_NAME}, byte 0"
        position = live[0].position if live else checkpoint.trim_position
        chain = live[0].chain if live else 0
        for header in live:
            if header.position != position or header.chain != chain:
                raise WalCorrupt(f"{place}: a damaged record; the log goes on in {segment_name(header.sequence)}")
            file = self._files.open(segment_name(header.sequence))
            try:
                segment = _SegmentReader(file, header, self._seed, checkpoint.trim_position)
                yield from segment.chunks()
                position, chain = segment.position, segment.chain
                place = f"{self._path(header.sequence)}, byte {segment.offset}"
                if header is live[-1]:
                    self._refuse_later_frames(file, segment.offset, position, place)
            finally:
                file.close()
        for sequence in suspect:
            file = self._files.open(segment_name(sequence))
            try:
                self._refuse_later_frames(file, 0, position - 1, f"{self._path(sequence)}, byte 0")
            finally:
                file.close()
        known_end = checkpoint.end_position
        if position < known_end or (checkpoint.state is State.CLEAN and position != known_end):
            raise WalCorrupt(
                f"{place}: a damaged record; the log was durable up to position {known_end}, not {position}"
            )
        self.end_position = position

    def _segments(self) -> tuple[list[SegmentHeader], list[int]]:
        """The live segments in order, and those without an intact header, which must not hold live frames."""
        live: list[SegmentHeader] = []
        suspect: list[int] = []
        for name in self._files.names():
            sequence = segment_sequence(name)
            if sequence is None:
                continue
            file = self._files.open(name)
            try:
                header = SegmentHeader.decode(file.read(0, SEGMENT_HEADER_SIZE))
            finally:
                file.close()
            if header is None:
                suspect.append(sequence)
            elif (
                header.sequence == sequence
                and header.log_id == self._checkpoint.log_id
                and header.epoch == self._checkpoint.epoch
            ):
                live.append(header)
        live.sort(key=lambda header: header.sequence)
        return live, suspect

    def _refuse_later_frames(self, file: File, offset: int, position: int, place: str) -> None:
        """Raise WalCorrupt if an intact frame begins after `position`: then what is at `place` was durable once."""
        epoch = self._checkpoint.epoch
        size = file.size()
        end = min(size, offset + LOOK_BEYOND_SIZE)
        while offset + FRAME_HEADER_SIZE <= end:
            window = file.read(offset, _WINDOW_SIZE)
            found = window.find(FRAME_MAGIC_BYTES)
            while found >= 0:
                start = offset + found
                begin = window[found : found + FRAME_HEADER_SIZE]
                if len(begin) < FRAME_HEADER_SIZE:
                    begin = file.read(start, FRAME_HEADER_SIZE)
                header = decode_frame_header(begin)
                if (
                    header is not None
                    and header.epoch == epoch
                    and header.position > position
                    and start + header.frame_size <= size
                    and frame_is_intact(memoryview(file.read(start, header.frame_size)), header, self._seed)
                ):
                    raise WalCorrupt(f"{place}: a damaged record; an intact one follows at byte {start}")
                found = window.find(FRAME_MAGIC_BYTES, found + 1)
            # The windows overlap by a magic less one byte.
            offset += max(1, len(window) - len(FRAME_MAGIC_BYTES) + 1)

    def _path(self, sequence: int) -> str:
        return f"{self._files.path}/{segment_name(sequence)}"


class _SegmentReader:
    """Walks the frames of one segment up to the first that does not belong or is damaged. Of those that are trimmed
    only the headers matter, which are chained."""

    def __init__(self, file: File, header: SegmentHeader, seed: int, trim_position: int) -> None:
        self._file = file
        self._header = header
        self._seed = seed
        self._trim_position = trim_position
        self.offset = SEGMENT_HEADER_SIZE
        self.position = header.position
        self.chain = header.chain

    def chunks(self) -> Iterator[list[WalRecord]]:
        window = memoryview(b"")
        window_offset = self.offset
        chunk: list[WalRecord] = []
        while True:
            rest = window[self.offset - window_offset :]
            header = decode_frame_header(rest)
            if header is None or header.frame_size > len(rest):
                if chunk:
                    yield chunk
                    chunk = []
                needed = FRAME_HEADER_SIZE if header is None else header.frame_size
                if self._stops_at(header) or len(rest) >= needed:
                    return
                window_offset = self.offset
                window = memoryview(self._file.read(window_offset, max(_WINDOW_SIZE, needed)))
                if len(window) < needed:
                    return
                continue
            frame = rest[: header.frame_size]
            if self._stops_at(header):
                break
            if header.end > self._trim_position:
                if not frame_is_intact(frame, header, self._seed):
                    break
                self._add_records(chunk, frame, header.count)
            self.offset += header.frame_size
            self.position = header.end
            self.chain = header.crc
        if chunk:
            yield chunk

    def _stops_at(self, header: FrameHeader | None) -> bool:
        """The frame is not the next one of this log (None: not known yet)."""
        if header is None:
            return False
        return (
            header.epoch != self._header.epoch
            or header.position != self.position
            or header.chain != self.chain
            or self.offset + header.frame_size > self._header.size
        )

    def _add_records(self, chunk: list[WalRecord], frame: memoryview, count: int) -> None:
        data = frame[FRAME_HEADER_SIZE + RECORD_OVERHEAD * count :]
        position = self.position
        start = 0
        for end in accumulate(frame_sizes(frame, count)):
            record_end = position + end - start + RECORD_OVERHEAD
            if record_end > self._trim_position:
                chunk.append(WalRecord(position, record_end, data[start:end]))
            position, start = record_end, end
