"""What a broker says it has to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.balance.load import PARTITIONS_PER_TURN, LoadMeter
from broker.partition.load import WINDOW_S, PartitionLoad


def passed(load: PartitionLoad, bytes_in: int, bytes_out: int = 0, requests: int = 1) -> None:
    load.bytes_in += bytes_in
    load.bytes_out += bytes_out
    load.requests += requests


def test_rates_are_right_at_once_and_follow_within_the_window() -> None:
    load = PartitionLoad()
    passed(load, 1000, 4000, 10)
    load.sample(2.0)
    assert (load.bytes_in_rate, load.bytes_out_rate, load.request_rate) == (500, 2000, 5)
    for _ in range(int(WINDOW_S)):
        passed(load, 1000)
        load.sample(1.0)
    assert load.bytes_in_rate == pytest.approx(1000, rel=0.35)
    for _ in range(10 * int(WINDOW_S)):
        load.sample(1.0)
    assert load.bytes_in_rate < 1


def test_a_burst_weighs_by_its_share_of_the_window() -> None:
    load = PartitionLoad()
    for _ in range(100):
        load.sample(1.0)
    passed(load, 15_000)
    load.sample(1.0)
    assert load.bytes_in_rate == pytest.approx(15_000 / WINDOW_S)


def test_a_partition_that_has_nothing_to_do_costs_no_arithmetic_and_ends_at_zero() -> None:
    load = PartitionLoad()
    passed(load, 10)
    for _ in range(500):
        load.sample(1.0)
    assert (load.bytes_in_rate, load.bytes_out_rate, load.request_rate) == (0, 0, 0)


class Broker:
    def __init__(self, count: int) -> None:
        self.now = self.cpu = 0.0
        self.partitions = [SimpleNamespace(index=index, load=PartitionLoad()) for index in range(count)]
        self.meter = LoadMeter(lambda: cast("Any", self.partitions), lambda: self.now, lambda: self.cpu)

    async def pass_time(self, seconds: float, cpu: float) -> None:
        self.now += seconds
        self.cpu += cpu
        await self.meter.sample()


async def test_the_total_is_that_of_all_partitions_and_cpu_is_in_cores() -> None:
    broker = Broker(PARTITIONS_PER_TURN + 10)
    for each in broker.partitions:
        passed(each.load, 100, 300)
    await broker.pass_time(2.0, 1.0)
    count = len(broker.partitions)
    assert broker.meter.total == (50 * count, 150 * count, 0.5 * count, 0.5)
    await broker.pass_time(0.0, 0.0)
    assert broker.meter.total.cpu == 0.5


async def test_of_many_partitions_the_busiest_are_listed_and_idle_ones_never() -> None:
    broker = Broker(10)
    for index, each in enumerate(broker.partitions[:6]):
        passed(each.load, 100 * index + 1)
    await broker.pass_time(1.0, 0.1)
    assert [each.index for each in broker.meter.busiest(10)] == [0, 1, 2, 3, 4, 5]
    assert [each.index for each in broker.meter.busiest(2)] == [5, 4]
