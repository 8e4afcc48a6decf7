"""A log is read by another node while its owner may live: nothing is changed, nothing durable is missed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import wal
from wal.api import RecoverableWal, WalCorrupt, WalFailed, WalForeign, WalOfAnotherEpoch, WalUnreachable
from wal.file import reading_along
from wal.file.checkpoint import CheckpointFile, read_checkpoint
from wal.file.files import OsFile, OsFiles
from wal.file.format import SEGMENT_HEADER_SIZE, State
from wal.file.log import FileWal, open_file_wal
from wal.file.machine import this_machine
from wal.file.opening import FileWalSettings
from wal.file.reading_along import LogReadAlong, read_file_wal

SEGMENT_SIZE = 64 << 10
SETTINGS = FileWalSettings(segment_size=SEGMENT_SIZE, size_max=8 * SEGMENT_SIZE)
EPOCH = 3


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[FileWal]:
    """A living owner's."""
    log = await open_file_wal(str(tmp_path), EPOCH, SETTINGS, owner="c")
    yield log
    await log.close()


async def append(log: FileWal, *records: bytes) -> None:
    """One frame each."""
    for record in records:
        log.append([record])
        await log.flush()


async def read(log: RecoverableWal) -> list[bytes]:
    return [bytes(record.data) async for chunk in log.records() for record in chunk]


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.wal"))


def tear_end(path: Path) -> None:
    """Of the last frame, the last bytes are not there yet."""
    (segment,) = [file for file in segments(path) if file.read_bytes()[SEGMENT_HEADER_SIZE:].strip(b"\0")]
    data = segment.read_bytes()
    end = len(data.rstrip(b"\0"))
    segment.write_bytes(data[: end - 10] + bytes(len(data) - end + 10))


async def test_the_log_of_a_living_owner_is_read_and_stays_as_it_is(log: FileWal, tmp_path: Path) -> None:
    await append(log, b"a", b"b")
    before = content(tmp_path)
    along = await wal.read_wal(f"file://{tmp_path}", owner="c")
    assert (along.epoch, along.owner_is_out) == (EPOCH, False)
    assert await read(along) == [b"a", b"b"]
    await along.discard()
    await along.close()
    assert content(tmp_path) == before
    await append(log, b"c")
    await log.close()
    own = await wal.fence_wal(f"file://{tmp_path}", owner="c")
    assert await read(own) == [b"a", b"b", b"c"]
    await own.close()


async def test_who_reads_needs_no_right_to_write(log: FileWal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await append(log, b"a")
    opened = os.open

    def only_to_read(path: str, flags: int, *mode: int, **kwargs: int) -> int:
        assert not flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT)
        return opened(path, flags, *mode, **kwargs)

    along = await read_file_wal(str(tmp_path))
    monkeypatch.setattr("wal.file.files.os.open", only_to_read)
    assert await read(along) == [b"a"]
    await along.close()


async def test_a_process_that_ended_on_this_machine_is_out(log: FileWal, tmp_path: Path) -> None:
    await append(log, b"a")
    log._fail(WalFailed("killed"))
    await log.close()
    along = await wal.read_wal(f"file://{tmp_path}")
    assert along.owner_is_out
    assert await read(along) == [b"a"]
    await along.close()


async def test_a_free_lock_proves_nothing_about_processes_on_other_machines(
    log: FileWal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(log, b"a")
    log._fail(WalFailed("it seems so from here: locks do not reach across machines"))
    await log.close()
    monkeypatch.setattr(reading_along, "this_machine", lambda: 7)
    along = await wal.read_wal(f"file://{tmp_path}")
    assert not along.owner_is_out
    await along.close()
    own = await wal.fence_wal(f"file://{tmp_path}")
    assert not own.owner_is_out
    assert await read(own) == [b"a"]
    await own.close()


async def test_a_log_of_a_machine_that_is_not_known_waits_for_its_lease(log: FileWal, tmp_path: Path) -> None:
    log._fail(WalFailed("killed"))
    await log.close()
    files = OsFiles(str(tmp_path))
    checkpoint = read_checkpoint(files)
    files.close()
    assert checkpoint is not None
    assert reading_along.is_proof(checkpoint)
    assert not reading_along.is_proof(dataclasses.replace(checkpoint, machine=0))


async def test_a_log_that_was_closed_is_proof_on_every_machine(
    log: FileWal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(log, b"a")
    await log.close()
    monkeypatch.setattr(reading_along, "this_machine", lambda: 7)
    along = await wal.read_wal(f"file://{tmp_path}")
    assert along.owner_is_out
    await along.close()


async def test_two_that_look_at_once_do_not_take_each_other_for_the_owner(log: FileWal, tmp_path: Path) -> None:
    log._fail(WalFailed("killed"))
    await log.close()
    for _ in range(20):
        looks = [wal.read_wal(f"file://{tmp_path}") for _ in range(4)]
        for along in await asyncio.gather(*looks):
            assert along.owner_is_out
            await along.close()


async def test_a_frame_that_is_being_written_is_a_torn_end(log: FileWal, tmp_path: Path) -> None:
    await append(log, b"a", b"b" * 1000)
    tear_end(tmp_path)
    along = await wal.read_wal(f"file://{tmp_path}")
    assert await read(along) == [b"a"]
    await along.close()


class Racing(OsFiles):
    """Calls `race` once, before the read that is given by its number."""

    def __init__(self, path: str, at: int, race: Iterator[None]) -> None:
        super().__init__(path, writable=False)
        self.left = at
        self.race = race

    def open(self, name: str) -> OsFile:
        return _RacingFile(super().open(name), self)


class _RacingFile(OsFile):
    def __init__(self, file: OsFile, files: Racing) -> None:
        super().__init__(file._fd)
        self._files = files

    def read(self, offset: int, size: int) -> bytes:
        self._files.left -= 1
        if self._files.left == 0:
            next(self._files.race, None)
        return super().read(offset, size)


@pytest.mark.parametrize("at", range(3, 24))
async def test_what_the_owner_does_meanwhile_is_no_damage(tmp_path: Path, at: int) -> None:
    """It writes on over several segments, and lets go of those that are uploaded, between any two reads."""
    log = await open_file_wal(str(tmp_path), EPOCH, SETTINGS)
    loop = asyncio.get_running_loop()
    records = [bytes([n]) * 9_000 for n in range(30)]
    await append(log, *records[:20])
    trimmed = 3 * 9_004

    async def go_on() -> None:
        log.trim(trimmed)
        await append(log, *records[20:])

    def race() -> Iterator[None]:
        asyncio.run_coroutine_threadsafe(go_on(), loop).result(10)
        yield

    along = LogReadAlong(Racing(str(tmp_path), at, race()), EPOCH, False)
    found = await read(along)
    await along.close()
    await log.close()
    first = records.index(found[0])
    assert first <= 3
    assert found == records[first : first + len(found)], "in order, none twice"
    assert first + len(found) >= 20, "what was durable when it began"


async def test_a_segment_that_is_gone_for_good_is_damage(log: FileWal, tmp_path: Path) -> None:
    await append(log, *(bytes([n]) * 9_000 for n in range(20)))
    segments(tmp_path)[1].unlink()
    along = await wal.read_wal(f"file://{tmp_path}")
    with pytest.raises(WalCorrupt):
        await read(along)
    await along.close()


async def test_a_log_that_its_node_began_anew_is_another_one(log: FileWal, tmp_path: Path) -> None:
    await append(log, b"a")
    along = await wal.read_wal(f"file://{tmp_path}")
    log._fail(WalFailed("killed"))
    await log.close()
    own = await wal.fence_wal(f"file://{tmp_path}")
    await own.discard()
    await own.close()
    assert await read(along) == [], "it is emptied when all of it is in objects"
    await (await wal.open_wal(f"file://{tmp_path}", epoch=EPOCH + 1)).close()
    with pytest.raises(WalOfAnotherEpoch):
        await read(along)
    await along.close()


async def test_what_is_no_log_or_of_another_cluster_is_refused(log: FileWal, tmp_path: Path) -> None:
    with pytest.raises(WalUnreachable, match="there is no log directory"):
        await wal.read_wal(f"file://{tmp_path}/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WalUnreachable, match="there is no log in"):
        await wal.read_wal(f"file://{tmp_path}/empty")
    with pytest.raises(WalForeign):
        await wal.read_wal(f"file://{tmp_path}", owner="another")


def test_a_checkpoint_names_the_machine_that_wrote_it(tmp_path: Path) -> None:
    files = OsFiles(str(tmp_path))
    checkpoint = CheckpointFile.create(files, 1)
    checkpoint.write(State.OPEN, epoch=1, trim_position=0, end_position=0)
    found = read_checkpoint(files)
    checkpoint.close()
    files.close()
    assert found is not None
    assert found.machine == this_machine() != 0


async def test_what_was_trimmed_is_not_looked_at_again_though_its_segment_is_in_use(tmp_path: Path) -> None:
    log = await open_file_wal(str(tmp_path), EPOCH, FileWalSettings())
    ends = [log.append([bytes(1000)]) for _ in range(3000)]
    await log.flush()
    log.trim(ends[-2])
    files = OsFiles(str(tmp_path))
    async with asyncio.timeout(10):
        while (found := read_checkpoint(files)) is None or found.trim_position < ends[-2]:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    files.close()
    along = await wal.read_wal(f"file://{tmp_path}")
    assert [record.end async for chunk in along.records() for record in chunk] == ends[-1:]
    await along.close()
    await log.close()
