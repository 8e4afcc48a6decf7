"""The store that fails on purpose does so by its rules; what lies above copes."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from s3stream.objectstore import open_store
from s3stream.objectstore.api import ObjectMissing, StoreAddressInvalid, StoreUnreachable
from s3stream.objectstore.budget import BUDGET_MAX, FAILURES_MAX, PROBE_INTERVAL_S, Circuit, RetryBudget
from s3stream.objectstore.faults import FaultyStore, parse_rules
from s3stream.objectstore.hedging import DELAY_MIN_S, LATEST_COUNT_MIN, Hedge, HedgingStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.meter import MeteredStore, StoreMeter
from s3stream.objectstore.retrying import ATTEMPTS_MAX, RetryingStore
from wal.api import Buffer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def faulty(rules: str, seed: int = 1) -> tuple[FaultyStore, MemoryStore, Clock]:
    memory, clock = MemoryStore(), Clock()
    return FaultyStore(memory, parse_rules(rules), random.Random(seed), clock=clock), memory, clock


async def test_an_error_did_nothing_and_a_lost_answer_did_it() -> None:
    store, memory, _ = faulty("put error key=^a; put lost key=^b")
    for key in ("a", "b"):
        with pytest.raises(StoreUnreachable, match="injected"):
            await store.put(key, [b"x"])
    assert await memory.head("a") is None
    assert await memory.head("b") == 1


async def test_a_window_is_counted_from_the_beginning() -> None:
    store, _, clock = faulty("* down from=30 for=60")
    await store.put("k", [b"x"])
    clock.now += 30
    for call in (store.get("k"), store.head("k"), store.delete_many(["k"]), store.put("k", [b"y"])):
        with pytest.raises(StoreUnreachable):
            await call
    with pytest.raises(StoreUnreachable):
        [meta async for meta in store.list("")]
    clock.now += 60
    assert bytes(await store.get("k")) == b"x"


async def test_a_storm_goes_on_for_its_time() -> None:
    store, _, clock = faulty("head storm=20")
    with pytest.raises(StoreUnreachable, match="503"):
        await store.head("k")
    store._rules = ()
    with pytest.raises(StoreUnreachable, match="503"):
        await store.put("k", [b"x"])
    clock.now += 20
    await store.put("k", [b"x"])


async def test_reads_are_torn_and_flipped() -> None:
    store, memory, _ = faulty("get torn key=^t; get flipped key=^f")
    data = bytes(range(256))
    await memory.put("t", [data])
    await memory.put("f", [data])
    torn = bytes(await store.get_range("t", 0, 256))
    assert data.startswith(torn)
    assert len(torn) < 256
    flipped = bytes(await store.get("f"))
    assert sum((a ^ b).bit_count() for a, b in zip(flipped, data, strict=True)) == 1


async def test_a_stale_list_misses_the_newest() -> None:
    store, memory, _ = faulty("list stale=10")
    memory._objects = {"old": (b"", 1_000_000), "new": (b"", 1_009_000)}
    assert [meta.key async for meta in store.list("")] == []
    memory._objects["newest"] = (b"", 1_010_000)
    assert [meta.key async for meta in store.list("")] == ["old"]


async def test_the_same_seed_gives_the_same_faults() -> None:
    async def history(seed: int) -> list[bool]:
        store, _, _ = faulty("put error p=0.5", seed)
        results = []
        for number in range(50):
            try:
                await store.put(str(number), [b"x"])
                results.append(True)
            except StoreUnreachable:
                results.append(False)
        return results

    assert await history(7) == await history(7)
    assert await history(7) != await history(8)


@pytest.mark.parametrize(
    "rules", ["put", "post error", "put explode", "put delay", "put error=3", "put error p=often", "get torn key=("]
)
def test_a_wrong_rule_is_named(rules: str) -> None:
    with pytest.raises(ValueError, match=rules.split()[0]):
        parse_rules(f"get error; {rules}")


async def test_an_address_makes_a_store_fail_only_if_it_says_so(tmp_path: Path) -> None:
    plain = await open_store(f"file://{tmp_path}?faults=*+down")
    await plain.put("k", [b"x"])
    with pytest.raises(StoreAddressInvalid, match="faults"):
        await open_store(f"faulty+file://{tmp_path}?faults=nonsense")
    failing = await open_store(f"faulty+file://{tmp_path}?faults=put+error;&seed=3")
    assert bytes(await failing.get("k")) == b"x"


async def test_rules_in_a_file_change_while_the_store_is_open(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    clock = Clock()
    store = FaultyStore(MemoryStore(), (), random.Random(1), clock=clock, rules_file=str(rules))
    await store.put("k", [b"x"])
    rules.write_text("* down  # for now\n")
    clock.now += 1
    with pytest.raises(StoreUnreachable):
        await store.get("k")
    rules.write_text("nonsense")  # is not taken
    os.utime(rules, ns=(1, 1))
    clock.now += 1
    with pytest.raises(StoreUnreachable):
        await store.get("k")
    rules.unlink()
    clock.now += 1
    assert bytes(await store.get("k")) == b"x"


# -- what lies above ---------------------------------------------------------------------------------------------------


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


async def test_errors_and_lost_answers_of_a_third_of_the_calls_are_hidden() -> None:
    store, memory, clock = faulty("* error p=0.2; put,delete lost p=0.1; get torn p=0.1")
    retrying = RetryingStore(store, sleep=no_sleep, clock=clock, rng=random.Random(2))
    failures = 0
    for number in range(300):
        try:
            await retrying.put_if_absent(str(number), [b"%d" % number, b"x" * 50])
            assert bytes(await retrying.get_range(str(number), 0, 3)) == (b"%dxxx" % number)[:3]
        except StoreUnreachable:
            failures += 1
    assert failures < 10
    assert store.injected > 100
    assert len([meta async for meta in memory.list("")]) >= 290


async def test_a_store_that_is_down_is_asked_once_a_second() -> None:
    store, _, clock = faulty("* down")
    meter = StoreMeter()
    retrying = RetryingStore(MeteredStore(store, meter), sleep=no_sleep, clock=clock)
    for _ in range(200):
        with pytest.raises(StoreUnreachable):
            await retrying.get("k")
    assert FAILURES_MAX <= meter.get_count <= FAILURES_MAX + ATTEMPTS_MAX
    asked = meter.get_count
    clock.now += PROBE_INTERVAL_S
    for _ in range(20):
        with pytest.raises(StoreUnreachable):
            await retrying.get("k")
    assert meter.get_count == asked + 1
    store.set_rules(())
    clock.now += PROBE_INTERVAL_S
    with pytest.raises(ObjectMissing):
        await retrying.get("k")
    await retrying.put("k", [b"x"])  # the first answer closes the circuit


async def test_answers_that_are_lost_do_not_stop_a_store_that_has_them() -> None:
    store, memory, clock = faulty("put lost")
    retrying = RetryingStore(store, sleep=no_sleep, clock=clock)
    for number in range(3 * FAILURES_MAX):
        await retrying.put(str(number), [b"x"])
    assert len([meta async for meta in memory.list("")]) == 3 * FAILURES_MAX


def test_retries_are_earned_by_answers() -> None:
    budget = RetryBudget()
    assert sum(budget.take() for _ in range(1000)) == BUDGET_MAX
    for _ in range(10):
        budget.answered()
    assert sum(budget.take() for _ in range(1000)) == 5


def test_a_circuit_lets_one_probe_pass() -> None:
    circuit = Circuit()
    for _ in range(FAILURES_MAX - 1):
        circuit.failed(10.0)
    assert circuit.may_pass(10.0)
    circuit.failed(10.0)
    assert not circuit.may_pass(10.5)
    assert circuit.may_pass(11.0)
    assert not circuit.may_pass(11.5)
    circuit.answered()
    assert circuit.may_pass(11.5)


class SlowOnce(MemoryStore):
    """The first GET after `slow` was set hangs."""

    slow = False
    gets = 0

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        self.gets += 1
        if self.slow:
            self.slow = False
            await asyncio.sleep(3600)
        return await super().get_range(key, start, end)


async def test_a_slow_get_is_asked_for_again_and_the_first_answer_counts() -> None:
    slow = SlowOnce()
    await slow.put("k", [b"0123456789"])
    store = HedgingStore(slow)
    for _ in range(40):
        await store.get_range("k", 0, 10)
    assert store.hedged == 0
    slow.slow = True
    async with asyncio.timeout(5):
        assert bytes(await store.get_range("k", 2, 5)) == b"234"
    assert (store.hedged, store.won, slow.gets) == (1, 1, 42)


async def test_a_store_that_is_slow_for_many_at_once_is_not_asked_twice_by_all() -> None:
    class Slow(MemoryStore):
        delay_s = 0.0
        gets = 0

        async def get_range(self, key: str, start: int, end: int) -> Buffer:
            self.gets += 1
            await asyncio.sleep(self.delay_s)
            return await super().get_range(key, start, end)

    slow = Slow()
    await slow.put("k", [b"0123456789"])
    store = HedgingStore(slow)
    for _ in range(40):
        await store.get_range("k", 0, 10)
    slow.gets, slow.delay_s = 0, 2 * DELAY_MIN_S
    found = await asyncio.gather(*(store.get_range("k", 0, 10) for _ in range(30)))
    assert {bytes(each) for each in found} == {b"0123456789"}
    assert (slow.gets, store.hedged) == (32, 2), "40 answers earn two"


def test_few_gets_are_doubled() -> None:
    hedge = Hedge()
    assert hedge.delay_s() is None
    doubled = 0
    for _ in range(1000 + LATEST_COUNT_MIN):
        if hedge.delay_s() is not None and hedge.spend():
            doubled += 1
        hedge.observe(0.2)
    assert 40 <= doubled <= 55
