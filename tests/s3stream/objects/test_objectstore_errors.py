"""Wrong addresses, failing stores, lost answers."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.seaweedfs_process import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedFs
from s3stream.objectstore import open_store
from s3stream.objectstore.api import (
    ObjectExists,
    StoreAddressInvalid,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
)
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.retrying import ATTEMPTS_MAX, RetryingStore
from wal.api import Buffer


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "/just/a/path",
        "file://host/dir",
        "s3://",
        "s3://user:secret@bucket",
        "s3://bucket?endpiont=http://x",
        "s3://bucket?path_style=maybe",
        "gs://bucket?endpoint=x",
    ],
)
async def test_a_bad_address_is_one_error_that_shows_it(url: str) -> None:
    with pytest.raises(StoreAddressInvalid) as caught:
        await open_store(url)
    assert "\n" not in str(caught.value)


async def test_a_directory_that_cannot_be_made_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnreachable, match="file/objects"):
        await open_store(f"file://{tmp_path}/file/objects")


async def test_a_store_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    with pytest.raises(StoreUnreachable) as caught:
        await open_store("s3://bucket?endpoint=http://127.0.0.1:1&region=us-east-1")
    assert "s3://bucket" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", ".partial/x"])
async def test_a_key_cannot_leave_the_directory(tmp_path: Path, key: str) -> None:
    store = await open_store(f"file://{tmp_path}")
    with pytest.raises(StoreError):
        await store.put(key, [b"x"])


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(f"file://{tmp_path}")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFull):
            await store.put("k", [b"x"])
    assert await store.head("k") is None
    assert list((tmp_path / ".partial").iterdir()) == []


def inode(path: Path) -> int:
    return path.stat().st_ino


async def test_a_directory_that_somebody_else_just_made_is_synced_before_an_object_in_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(f"file://{tmp_path}//")
    (tmp_path / "9d").mkdir()  # by another broker, which died before its sync
    synced: list[int] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    await store.put("9d/1", [b"x"])
    assert {inode(tmp_path), inode(tmp_path / "9d")} <= set(synced)
    synced.clear()
    await store.put("9d/2", [b"x"])
    assert inode(tmp_path) not in synced
    await store.close()


async def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    store = await open_store(f"file://{tmp_path}")
    await store.put("a/b/1", [b"x"])
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(StoreUnreachable):
        await store.put("a/b/2", [b"x"])
    for _ in range(2):
        await store.put("a/b/2", [b"x"])
    await store.close()


async def test_what_a_crash_left_is_removed_after_a_day(tmp_path: Path) -> None:
    await (await open_store(f"file://{tmp_path}")).close()
    for name, age in (("old", 90_000), ("new", 10)):
        path = tmp_path / ".partial" / name
        path.write_text("")
        moment = path.stat().st_mtime - age
        os.utime(path, (moment, moment))
    store = await open_store(f"file://{tmp_path}")
    assert [path.name for path in (tmp_path / ".partial").iterdir()] == ["new"]
    assert [meta async for meta in store.list("")] == []


class FlakyStore(MemoryStore):
    """Fails as told: "lost" does the work and loses the answer, "down" does nothing, "refused" for good."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__()
        self.faults = list(faults)
        self.calls = 0

    def _fault(self) -> str:
        self.calls += 1
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "down":
            raise StoreUnreachable("down")
        if fault == "refused":
            raise StoreRefused("no")
        return fault

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        fault = self._fault()
        await super().put(key, pieces)
        if fault == "lost":
            raise StoreUnreachable("no answer")

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        fault = self._fault()
        if key in self._objects:
            raise ObjectExists(key)
        await MemoryStore.put(self, key, pieces)
        if fault == "lost":
            raise StoreUnreachable("no answer")

    async def get(self, key: str) -> Buffer:
        self._fault()
        return await super().get(key)

    async def head(self, key: str) -> int | None:
        self._fault()
        return await super().head(key)


def retrying(store: FlakyStore) -> tuple[RetryingStore, list[float]]:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    return RetryingStore(store, sleep=sleep, rng=random.Random(0)), pauses


async def test_a_put_whose_answer_was_lost_is_found_and_not_repeated() -> None:
    flaky = FlakyStore(["lost"])
    store, pauses = retrying(flaky)
    await store.put("k", [b"ab", b"c"])
    assert pauses == []
    assert flaky.calls == 3, "put, head, get"


async def test_a_put_is_repeated_until_the_store_is_back() -> None:
    flaky = FlakyStore(["down", "down", "down", "down"])
    store, pauses = retrying(flaky)
    await store.put("k", [b"abc"])
    assert len(pauses) == 2
    assert bytes(await flaky.get("k")) == b"abc"


async def test_another_object_of_the_same_size_is_not_taken_for_ours() -> None:
    flaky = FlakyStore([])
    await flaky.put("k", [b"old"])
    flaky.faults = ["down"]
    store, _ = retrying(flaky)
    await store.put("k", [b"new"])
    assert bytes(await flaky.get("k")) == b"new"


async def test_a_conditional_put_with_a_lost_answer_is_decided_by_what_is_there() -> None:
    flaky = FlakyStore(["lost", "down"])
    store, _ = retrying(flaky)
    await store.put_if_absent("k", [b"mine"])
    with pytest.raises(ObjectExists):
        await store.put_if_absent("k", [b"mine"])
    flaky.faults = ["down"]
    with pytest.raises(ObjectExists):
        await store.put_if_absent("k", [b"other"])


async def test_attempts_are_bounded_and_pauses_grow() -> None:
    flaky = FlakyStore(["down"] * 100)
    store, pauses = retrying(flaky)
    with pytest.raises(StoreUnreachable):
        await store.head("k")
    assert flaky.calls == ATTEMPTS_MAX
    assert pauses == sorted(pauses)
    with pytest.raises(StoreUnreachable):
        await store.put("k", [b"x"])


async def test_a_refusal_is_not_repeated() -> None:
    for flaky in (FlakyStore(["refused"]), FlakyStore(["refused"])):
        store, pauses = retrying(flaky)
        with pytest.raises(StoreRefused):
            await store.put("k", [b"x"])
        assert pauses == []
        assert flaky.calls == 1


@pytest.mark.integration
async def test_a_missing_bucket_and_a_wrong_key_are_refusals(
    seaweedfs: SeaweedFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        await open_store(seaweedfs.store_url("nowhere"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreRefused):
        await open_store(seaweedfs.store_url(BUCKET))
