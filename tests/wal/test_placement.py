"""Which thread writes a group commit: decided by how fast the disk is, and without effect on what the log promises."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident

import pytest

import wal
from tests.wal.test_file_faults import Faults, FaultyFiles
from wal.api import Buffer, WalError, WalFailed
from wal.file.files import File
from wal.file.log import FileWal, open_file_wal
from wal.file.opening import FileWalSettings
from wal.file.placement import FAST_S, PROBE_INTERVAL, PROBE_INTERVAL_AFTER_STALL, SIZE_MAX, STALL_S, Placement

SETTINGS = FileWalSettings(segment_size=64 << 10, size_max=256 << 10)
FAST = FAST_S / 2
SLOW = FAST_S * 2


def run(placement: Placement, commits: int, seconds: float, size: int = 100) -> int:
    """How many of the commits are written on the loop, when each takes so long."""
    on_loop = 0
    for _ in range(commits):
        if placement.on_loop(size):
            on_loop += 1
            placement.took(size, seconds)
    return on_loop


def test_a_disk_that_proves_fast_is_written_to_from_the_loop() -> None:
    placement = Placement()
    assert run(placement, PROBE_INTERVAL - 1, FAST) == 0
    run(placement, 4 * PROBE_INTERVAL, FAST)
    assert run(placement, 100, FAST) == 100


def test_a_slow_disk_holds_up_the_loop_for_its_probes_only() -> None:
    placement = Placement()
    assert run(placement, 100 * PROBE_INTERVAL, SLOW) == 100


def test_a_disk_that_becomes_slow_is_left_to_the_thread() -> None:
    placement = Placement()
    run(placement, 1000, FAST)
    assert run(placement, 100, SLOW) < 30


def test_a_slow_commit_now_and_then_changes_nothing() -> None:
    placement = Placement()
    run(placement, 1000, FAST)
    for _ in range(100):
        assert run(placement, 2, FAST) == 2
        assert run(placement, 1, SLOW) == 1


def test_a_stall_ends_it_until_probes_are_fast_again() -> None:
    placement = Placement()
    run(placement, 1000, FAST)
    assert run(placement, 1, STALL_S) == 1
    assert run(placement, PROBE_INTERVAL - 1, FAST) == 0
    run(placement, 4 * PROBE_INTERVAL, FAST)
    assert run(placement, 100, FAST) == 100


def test_after_a_probe_that_stalls_the_thread_writes_for_long() -> None:
    placement = Placement()
    assert run(placement, PROBE_INTERVAL, STALL_S) == 1
    assert run(placement, PROBE_INTERVAL_AFTER_STALL - 1, FAST) == 0


def test_large_commits_are_never_written_on_the_loop() -> None:
    placement = Placement()
    run(placement, 1000, FAST)
    assert not placement.on_loop(SIZE_MAX + 1)


class Chosen(Placement):
    """Writes on the loop whenever the list says so, and from its end on always."""

    def __init__(self, choices: list[bool]) -> None:
        super().__init__()
        self.choices = choices

    def on_loop(self, size: int) -> bool:
        return self.choices.pop(0) if self.choices else True


class Watched(Faults):
    """Notes which thread writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[int] = []


class WatchedFile:
    def __init__(self, file: File, faults: Watched) -> None:
        self._file = file
        self._faults = faults

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        self._faults.writers.append(get_ident())
        self._file.write(pieces, offset)

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class WatchedFiles(FaultyFiles):
    def create(self, name: str, size: int, *, fill: bool) -> File:  # type: ignore[override]
        assert isinstance(self._faults, Watched)
        return WatchedFile(super().create(name, size, fill=fill), self._faults)


@pytest.fixture
def faults() -> Watched:
    return Watched()


async def open_log(path: Path, faults: Watched, choices: list[bool]) -> FileWal:
    log = await open_file_wal(str(path), 1, SETTINGS, lambda name: WatchedFiles(name, faults))
    log._placement = Chosen(choices)
    return log


async def crash(log: FileWal) -> None:
    log._fail(WalFailed("crashed"))
    await log.close()


async def test_what_the_loop_wrote_is_recovered_with_what_the_thread_wrote(tmp_path: Path, faults: Watched) -> None:
    log = await open_log(tmp_path, faults, [index % 3 == 1 for index in range(60)])
    records = [bytes([index]) * 2000 for index in range(60)]
    for record in records:
        log.append([record])
        await log.flush()
    assert set(faults.writers) > {get_ident()}
    await crash(log)
    recovering = await wal.fence_wal(f"file://{tmp_path}")
    assert [bytes(record.data) async for chunk in recovering.records() for record in chunk] == records
    await recovering.close()


async def test_a_commit_of_the_loop_is_reported_after_those_before_it(tmp_path: Path, faults: Watched) -> None:
    log = await open_log(tmp_path, faults, [False, True, True, False])
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    faults.gate.clear()
    ends = [log.append([b"first"])]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ends.append(log.append([b"second"]))
    faults.gate.set()
    await log.flush()
    for record in (b"third", b"fourth"):
        ends.append(log.append([record]))
        await log.flush()
    assert durable == ends
    await log.close()


async def test_a_commit_that_the_loop_cannot_write_is_final(tmp_path: Path, faults: Watched) -> None:
    log = await open_log(tmp_path, faults, [False])
    durable: list[int] = []
    failures: list[WalError] = []
    log.set_listeners(durable.append, failures.append)
    good = log.append([b"good"])
    await log.flush()
    faults.write_error = OSError(errno.EIO, "Input/output error")
    log.append([b"bad"])
    with pytest.raises(WalFailed, match="Input/output"):
        await log.flush()
    faults.write_error = None
    with pytest.raises(WalFailed):
        log.append([b"late"])
    assert durable == [good]
    assert len(failures) == 1
    await log.close()


async def test_nothing_is_written_after_a_failure(tmp_path: Path, faults: Watched) -> None:
    log = await open_log(tmp_path, faults, [False, True])
    faults.gate.clear()
    log.append([b"first"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    log.append([b"second"])
    log._flushed(log.durable_position, 1 << 20, True)  # the second is due, and to be written on the loop
    log._fail(WalFailed("the keeping thread is gone"))
    faults.gate.set()
    await asyncio.sleep(0)
    assert get_ident() not in faults.writers
    await log.close()
