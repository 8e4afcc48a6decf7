"""The contract of object stores, on every driver; on a real S3 server with `-m integration`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3stream.objectstore import ObjectStore, open_store
from s3stream.objectstore.api import ObjectExists, ObjectMissing, RangeInvalid


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.integration)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    if request.param == "memory":
        url = "memory://"
    elif request.param == "file":
        url = f"file://{tmp_path}/some%20dir/objects"
    else:
        url = request.getfixturevalue("s3_url")
    store = await open_store(url)
    yield store
    await store.close()


async def keys(store: ObjectStore, prefix: str) -> list[str]:
    return sorted([meta.key async for meta in store.list(prefix)])


async def test_an_object_is_the_concatenation_of_its_pieces(store: ObjectStore) -> None:
    pieces = [b"abc", bytearray(b"def"), memoryview(b"xghi")[1:], b""]
    await store.put("a/b/c", pieces)
    assert bytes(await store.get("a/b/c")) == b"abcdefghi"
    assert await store.head("a/b/c") == 9


async def test_many_and_big_pieces_are_stored_whole(store: ObjectStore) -> None:
    pieces = [bytes([n % 251]) * (n % 7) for n in range(3000)] + [b"z" * (5 << 20)]
    await store.put("big", pieces)
    assert bytes(await store.get("big")) == b"".join(pieces)


async def test_a_range_is_exact(store: ObjectStore) -> None:
    await store.put("k", [b"0123456789"])
    for start, end in ((0, 10), (3, 4), (9, 10), (0, 1)):
        assert bytes(await store.get_range("k", start, end)) == b"0123456789"[start:end]
    for start, end in ((5, 11), (10, 12), (4, 4), (-1, 3), (100, 200)):
        with pytest.raises(RangeInvalid):
            await store.get_range("k", start, end)


async def test_what_is_not_there_says_so(store: ObjectStore) -> None:
    assert await store.head("no") is None
    with pytest.raises(ObjectMissing):
        await store.get("no")
    with pytest.raises(ObjectMissing):
        await store.get_range("no", 0, 1)
    assert await keys(store, "no") == []


async def test_a_put_replaces(store: ObjectStore) -> None:
    await store.put("k", [b"old"])
    await store.put("k", [b"newer"])
    assert bytes(await store.get("k")) == b"newer"


async def test_of_two_conditional_puts_exactly_one_wins(store: ObjectStore) -> None:
    results = await asyncio.gather(
        *(store.put_if_absent("slot", [bytes([n])]) for n in range(5)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, ObjectExists) for result in results)
    assert bytes(await store.get("slot")) == bytes([results.index(None)])


async def test_deleting_is_idempotent(store: ObjectStore) -> None:
    await store.put("x/1", [b"1"])
    await store.put("x/2", [b"2"])
    for _ in range(2):
        await store.delete_many(["x/1", "never/there", "x/2"])
        assert await keys(store, "") == []
    await store.delete_many([])


async def test_a_listing_goes_by_string_prefix(store: ObjectStore) -> None:
    for key in ("ab/1", "ab/2", "ab/c/3", "abc/4", "b"):
        await store.put(key, [key.encode()])
    assert await keys(store, "") == ["ab/1", "ab/2", "ab/c/3", "abc/4", "b"]
    assert await keys(store, "ab/") == ["ab/1", "ab/2", "ab/c/3"]
    assert await keys(store, "ab") == ["ab/1", "ab/2", "ab/c/3", "abc/4"]
    assert await keys(store, "ab/c") == ["ab/c/3"]
    assert await keys(store, "ab/c/") == ["ab/c/3"]
    assert await keys(store, "ab/1/") == await keys(store, "nothing/like/that") == []
    found = [meta async for meta in store.list("b")]
    assert [meta.size for meta in found] == [1]
    assert found[0].modified > 1_600_000_000_000


async def test_keys_with_odd_characters_survive(store: ObjectStore) -> None:
    await store.put("p/a b=c+d%20e", [b"1"])
    assert await keys(store, "p/") == ["p/a b=c+d%20e"]
    assert bytes(await store.get("p/a b=c+d%20e")) == b"1"


async def test_concurrent_puts_all_arrive(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(f"many/{n:03}", [b"%d" % n]) for n in range(50)))
    assert await keys(store, "many/") == [f"many/{n:03}" for n in range(50)]
