"""The file WAL under failing syncs, full disks, short writes, torn tails and flipped bits."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import wal
from wal.api import Buffer, WalCorrupt, WalError, WalFailed, WalFull, WalUnreachable
from wal.file.files import File, OsFile, OsFiles
from wal.file.format import SEGMENT_HEADER_SIZE
from wal.file.log import LOOKS_MAX, FileWal, open_file_wal
from wal.file.opening import FileWalSettings

SEGMENT_SIZE = 64 << 10
SETTINGS = FileWalSettings(segment_size=SEGMENT_SIZE, size_max=4 * SEGMENT_SIZE)


class Faults:
    def __init__(self) -> None:
        self.write_error: OSError | None = None
        self.create_error: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.write_count = 0
        self.failed_count = 0


class FaultyFile:
    def __init__(self, file: File, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        faults = self._faults
        faults.gate.wait()
        faults.write_count += 1
        if faults.write_error is not None:
            faults.failed_count += 1
            raise faults.write_error
        self._file.write(pieces, offset)

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class FaultyFiles(OsFiles):
    def __init__(self, path: str, faults: Faults) -> None:
        super().__init__(path, create=True)
        self._faults = faults

    def create(self, name: str, size: int, *, fill: bool) -> File:  # type: ignore[override]
        if self._faults.create_error is not None:
            raise self._faults.create_error
        return FaultyFile(super().create(name, size, fill=fill), self._faults)

    def open(self, name: str) -> File:  # type: ignore[override]
        return FaultyFile(super().open(name), self._faults)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wal"


async def open_faulty(path: Path, faults: Faults, epoch: int = 1, settings: FileWalSettings = SETTINGS) -> FileWal:
    return await open_file_wal(str(path), epoch, settings, lambda name: FaultyFiles(name, faults))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for happens in another thread)
        await asyncio.sleep(0.002)


async def append_until_full(log: FileWal, size: int, reason: str) -> int:
    for _ in range(1000):
        try:
            log.append([b"x" * size])
        except WalFull as error:
            if reason in str(error):
                return log.end_position
            raise
        await log.flush()
        # The keeping thread has to notice first.
        await asyncio.sleep(0.001)
    raise AssertionError("the log never became full")


async def recovered(path: Path) -> list[bytes]:
    log = await wal.fence_wal(f"file://{path}")
    try:
        return [bytes(record.data) async for chunk in log.records() for record in chunk]
    finally:
        await log.close()


async def written(path: Path, records: Sequence[bytes], settings: FileWalSettings = SETTINGS) -> None:
    """One flush for each record, then a crash."""
    log = await open_file_wal(str(path), 1, settings)
    for record in records:
        log.append([record])
        await log.flush()
    log._fail(WalFailed("crashed"))
    await log.close()


async def test_a_failed_sync_is_final_and_reported_once(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    failures: list[WalError] = []
    durable: list[int] = []
    log.set_listeners(durable.append, failures.append)
    log.append([b"good"])
    await log.flush()
    faults.write_error = OSError(errno.EIO, "Input/output error")
    log.append([b"bad"])
    with pytest.raises(WalFailed, match="Input/output"):
        await log.flush()
    faults.write_error = None
    with pytest.raises(WalFailed):
        log.append([b"late"])
    with pytest.raises(WalFailed):
        await log.flush()
    assert (len(failures), faults.failed_count, len(durable)) == (1, 1, 1)
    await log.close()
    assert await recovered(path) == [b"good"]


async def test_appends_of_turns_that_follow_each_other_share_a_flush(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    log.append([b"first"])
    await asyncio.sleep(0)
    end = log.append([b"second"])
    await log.flush()
    assert durable == [end]
    await log.close()


async def test_a_flush_does_not_wait_for_as_long_as_appends_come(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    faults.gate.clear()
    ends = []
    for _ in range(20):
        ends.append(log.append([b"one more"]))
        await asyncio.sleep(0)
    faults.gate.set()
    await log.flush()
    assert durable == [ends[LOOKS_MAX], ends[-1]]
    await log.close()


async def test_appends_during_a_flush_are_the_next_flush(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    faults.gate.clear()
    log.append([b"first"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(10):
        log.append([b"later"])
        await asyncio.sleep(0)
    faults.gate.set()
    await log.flush()
    assert len(durable) == 2
    await log.close()


async def test_a_full_disk_refuses_appends_until_there_is_room(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    await until(lambda: log._pool.ready.qsize() >= 1)
    faults.create_error = OSError(errno.ENOSPC, "No space left on device")
    end = await append_until_full(log, 4000, "No space left")
    assert log.end_position == log.durable_position == end
    faults.create_error = None
    log.trim(end)
    await until(lambda: log._starved is None)
    log.append([b"again"])
    await log.flush()
    await log.close()


async def test_the_greatest_size_refuses_appends_until_something_is_trimmed(path: Path) -> None:
    log = await open_file_wal(str(path), 1, SETTINGS)
    end = await append_until_full(log, 1000, "greatest size")
    assert end > 2 * SEGMENT_SIZE
    assert len([name for name in os.listdir(path) if name.endswith(".wal")]) == 4
    log.trim(end)
    await until(lambda: log._starved is None)
    for _ in range(100):
        end = log.append([b"x" * 1000])
        await log.flush()
    await log.close()


async def test_segments_are_recycled(path: Path) -> None:
    log = await open_file_wal(str(path), 1, SETTINGS)
    inodes = set()
    for _ in range(600):
        log.trim(log.append([b"x" * 2000]))
        await log.flush()
        log.trim(log.durable_position)
        inodes |= {entry.inode() for entry in os.scandir(path) if entry.name.endswith(".wal")}
    await log.close()
    assert len(inodes) <= 4


async def test_a_full_disk_at_the_start_says_so(path: Path, faults: Faults) -> None:
    faults.create_error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(WalFull, match="No space left"):
        await open_faulty(path, faults)
    faults.create_error = None
    await (await open_faulty(path, faults)).close()


async def test_a_record_that_fits_in_no_segment_is_refused(path: Path) -> None:
    log = await open_file_wal(str(path), 1, SETTINGS)
    with pytest.raises(ValueError, match="does not fit"):
        log.append([bytes(log.record_size_max + 1)])
    log.append([bytes(log.record_size_max)])
    await log.flush()
    await log.close()


async def test_short_writes_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    real = os.pwritev

    def short(fd: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> int:
        data = b"".join(buffers)
        return real(fd, [data[: rng.randint(1, len(data))]], offset, flags)

    monkeypatch.setattr(os, "pwritev", short)
    records = [rng.randbytes(rng.randint(0, 9000)) for _ in range(30)]
    await written(path, records)
    assert await recovered(path) == records


async def test_more_pieces_than_one_system_call_takes(path: Path) -> None:
    log = await open_file_wal(str(path), 1, FileWalSettings(segment_size=32 << 20))
    log.append([b"p" * 3000] * 5000)
    await log.flush()
    await log.close()
    assert await recovered(path) == [b"p" * 15_000_000]


def used_segments(path: Path) -> list[Path]:
    """Without the spares, which are all zeros."""
    return [file for file in sorted(path.glob("*.wal")) if file.read_bytes()[:8] == b"TRWALSEG"]


def last_segment(path: Path) -> Path:
    return used_segments(path)[-1]


RECORDS = [bytes([65 + n]) * (50 + n) for n in range(6)]
FRAME_SIZES = [44 + len(record) for record in RECORDS]


@pytest.mark.parametrize("kept", [*range(0, FRAME_SIZES[-1], 9), FRAME_SIZES[-1] - 1])
async def test_a_torn_tail_is_dropped_silently(path: Path, kept: int) -> None:
    await written(path, RECORDS)
    file = last_segment(path)
    start = SEGMENT_HEADER_SIZE + sum(FRAME_SIZES[:-1])
    data = bytearray(file.read_bytes())
    data[start + kept : start + FRAME_SIZES[-1]] = random.Random(kept).randbytes(FRAME_SIZES[-1] - kept)
    file.write_bytes(data)
    assert await recovered(path) == RECORDS[:-1]


async def test_a_flipped_bit_before_the_last_frame_is_named_and_nothing_is_changed(path: Path) -> None:
    await written(path, RECORDS)
    file = last_segment(path)
    intact = file.read_bytes()
    rng = random.Random(3)
    for position in range(SEGMENT_HEADER_SIZE + sum(FRAME_SIZES[:-1])):
        if position >= SEGMENT_HEADER_SIZE and position % 5:
            continue
        data = bytearray(intact)
        data[position] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        with pytest.raises(WalCorrupt) as caught:
            await recovered(path)
        assert "byte" in str(caught.value)
        if position >= SEGMENT_HEADER_SIZE:
            assert file.name in str(caught.value)
            frame = max(
                SEGMENT_HEADER_SIZE + sum(FRAME_SIZES[:n])
                for n in range(len(RECORDS))
                if SEGMENT_HEADER_SIZE + sum(FRAME_SIZES[:n]) <= position
            )
            assert f"byte {frame}:" in str(caught.value)
        assert file.read_bytes() == bytes(data)
    file.write_bytes(intact)
    assert await recovered(path) == RECORDS


async def test_damage_in_an_earlier_segment_or_a_missing_one_is_corruption(path: Path) -> None:
    records = [bytes([n]) * 20_000 for n in range(8)]
    await written(path, records)
    used = used_segments(path)
    assert len(used) == 3
    for file in used[:2]:
        intact = file.read_bytes()
        data = bytearray(intact)
        data[50_000] ^= 1
        file.write_bytes(data)
        with pytest.raises(WalCorrupt, match=file.name):
            await recovered(path)
        file.unlink()
        with pytest.raises(WalCorrupt):
            await recovered(path)
        file.write_bytes(intact)
    assert await recovered(path) == records


async def test_damage_at_the_end_of_a_cleanly_closed_log_is_corruption(path: Path) -> None:
    log = await open_file_wal(str(path), 1, SETTINGS)
    log.append([b"only"])
    await log.close()
    file = last_segment(path)
    data = bytearray(file.read_bytes())
    data[SEGMENT_HEADER_SIZE + 45] ^= 1
    file.write_bytes(data)
    with pytest.raises(WalCorrupt, match="byte 64"):
        await recovered(path)


async def test_one_damaged_checkpoint_slot_does_no_harm_two_are_corruption(path: Path) -> None:
    log = await open_file_wal(str(path), 1, SETTINGS)
    log.append([b"x"])
    await log.close()
    file = path / "checkpoint"
    intact = file.read_bytes()
    for slots in ((0,), (4096,), (0, 4096)):
        data = bytearray(intact)
        for slot in slots:
            data[slot + 20] ^= 1
        file.write_bytes(data)
        if len(slots) == 1:
            assert await recovered(path) == [b"x"]
        else:
            with pytest.raises(WalCorrupt, match="checkpoint"):
                await recovered(path)
    file.unlink()
    with pytest.raises(WalCorrupt, match="missing"):
        await recovered(path)


async def test_stale_frames_in_a_recycled_segment_end_the_log(path: Path) -> None:
    settings = FileWalSettings(segment_size=SEGMENT_SIZE, size_max=2 * SEGMENT_SIZE)
    await written(path, [b"old" * 100] * 150, settings)
    log = await wal.fence_wal(f"file://{path}")
    await log.discard()
    await log.close()
    for epoch in (1, 2):
        new = await open_file_wal(str(path), epoch, settings)
        new.append([b"new" * 100])
        await new.flush()
        new._fail(WalFailed("crashed"))
        await new.close()
        assert await recovered(path) == [b"new" * 100]
        fenced = await wal.fence_wal(f"file://{path}")
        await fenced.discard()
        await fenced.close()


async def test_an_empty_directory_is_not_an_empty_log(path: Path) -> None:
    os.mkdir(path)
    with pytest.raises(WalUnreachable, match="no log"):
        await wal.fence_wal(f"file://{path}")


def test_a_real_file_reads_what_was_written(tmp_path: Path) -> None:
    files = OsFiles(str(tmp_path), create=False)
    file: OsFile = files.create("f", 10_000, fill=True)
    file.write([b"ab", b"cd"], 5000)
    assert (file.read(4999, 6), file.size(), file.read(9_999, 10)) == (b"\0abcd\0", 10_000, b"\0")
    file.close()
    files.close()


async def test_a_failure_to_write_the_clean_mark_is_reported_and_lets_the_lock_go(path: Path, faults: Faults) -> None:
    log = await open_faulty(path, faults)
    log.append([b"x"])
    await log.flush()
    faults.write_error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(WalFailed, match="closing"):
        await log.close()
    assert await recovered(path) == [b"x"]


class UnsyncedNames(FaultyFiles):
    """Knows which names are durable, and which files were written to before theirs was."""

    def __init__(self, path: str, faults: Faults) -> None:
        super().__init__(path, faults)
        self.unsynced: set[str] = set()
        self.written_too_early: set[str] = set()
        self.sync_errors = 0

    def create(self, name: str, size: int, *, fill: bool) -> File:  # type: ignore[override]
        self.unsynced.add(name)
        return NamedFile(super().create(name, size, fill=fill), name, self)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self.unsynced.add(new)

    def sync(self) -> None:
        if self.sync_errors:
            self.sync_errors -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        # A writer that waits for a segment would use the time.
        time.sleep(0.05)
        super().sync()
        self.unsynced.clear()


class NamedFile(FaultyFile):
    def __init__(self, file: File, name: str, files: UnsyncedNames) -> None:
        super().__init__(file, files._faults)
        self._name = name
        self._files = files

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        if self._name in self._files.unsynced and self._name.endswith(".wal"):
            self._files.written_too_early.add(self._name)
        super().write(pieces, offset)


async def open_watched(path: Path) -> tuple[FileWal, UnsyncedNames]:
    files: list[UnsyncedNames] = []

    def open_files(name: str) -> UnsyncedNames:
        files.append(UnsyncedNames(name, Faults()))
        return files[0]

    return await open_file_wal(str(path), 1, SETTINGS, open_files), files[0]


async def test_no_record_is_written_to_a_segment_whose_name_is_not_durable(path: Path) -> None:
    log, files = await open_watched(path)
    for _ in range(3):
        log.append([bytes(SEGMENT_SIZE // 2)])
        await log.flush()
    assert files.written_too_early == set()
    await log.close()


async def test_segments_are_not_lost_to_a_directory_sync_that_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wal.file.log._RETRY_INTERVAL_S", 0.01)
    log, files = await open_watched(path)
    async with asyncio.timeout(10):
        for _ in range(6):
            for _ in range(2):
                log.append([bytes(SEGMENT_SIZE // 2)])
                await log.flush()
            files.sync_errors = 1
            log.trim(log.end_position)
            await until(lambda: log._starved is not None)
            await until(lambda: log._starved is None)
    await log.close()
    assert await recovered(path) == []
