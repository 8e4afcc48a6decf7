"""What macOS lacks, or does otherwise, taken away here: the log and the object directory work without it."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import wal
from s3stream.objectstore import file_writing
from s3stream.objectstore.file import FileStore
from wal import syncing

FULL_FSYNC = 51


@pytest.fixture
def full_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on macOS; returns the descriptors that were synced in full."""
    synced: list[int] = []
    others = fcntl.fcntl

    def full_fsync(fd: int, command: int, *arguments: int) -> object:
        if command != FULL_FSYNC:
            return others(fd, command, *arguments)
        synced.append(fd)
        return 0

    for name in ("posix_fallocate", "fdatasync", "RWF_DSYNC", "O_DIRECT"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "supports_fd", os.supports_fd - {os.listdir})
    monkeypatch.setattr(file_writing, "_O_DIRECT", 0)
    monkeypatch.setattr(syncing, "_FULL_FSYNC", FULL_FSYNC)
    monkeypatch.setattr(syncing.fcntl, "fcntl", full_fsync)
    monkeypatch.setattr(sys, "platform", "darwin")
    return synced


async def test_a_log_is_written_synced_in_full_and_recovered(tmp_path: Path, full_syncs: list[int]) -> None:
    url = f"file://{tmp_path}/wal"
    log = await wal.open_wal(url, epoch=1, owner="c", segment_size=1 << 20)
    before = len(full_syncs)
    log.append([b"a", b"record"])
    await log.flush()
    assert len(full_syncs) > before
    await log.close()
    with pytest.raises(wal.api.WalNotRecovered):
        await wal.open_wal(url, epoch=2, owner="c", segment_size=1 << 20)
    fenced = await wal.fence_wal(url, owner="c")
    assert [bytes(record.data) async for chunk in fenced.records() for record in chunk] == [b"arecord"]
    await fenced.discard()
    await fenced.close()
    await (await wal.open_wal(url, epoch=2, owner="c", segment_size=1 << 20)).close()


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_objects_are_written_and_synced_in_full(tmp_path: Path, full_syncs: list[int], size: int) -> None:
    store = await FileStore.open(str(tmp_path / "objects"))
    before = len(full_syncs)
    await store.put("a/object", [bytes(size)])
    assert len(full_syncs) == before + 1
    assert await store.get("a/object") == bytes(size)
    await store.close()


@pytest.mark.parametrize("sync", [syncing.sync_file, syncing.sync_data])
def test_a_file_system_that_knows_no_full_sync_gets_an_ordinary_one(
    tmp_path: Path, full_syncs: list[int], monkeypatch: pytest.MonkeyPatch, sync: Callable[[int], None]
) -> None:
    code = errno.ENOTSUP

    def refuse(fd: int, command: int) -> object:
        raise OSError(code, "no")

    monkeypatch.setattr(syncing.fcntl, "fcntl", refuse)
    with (tmp_path / "file").open("wb") as file:
        sync(file.fileno())
        code = errno.EIO
        with pytest.raises(OSError, match="no"):
            sync(file.fileno())
