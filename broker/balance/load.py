"""`LoadMeter`: what this broker has to do. Samples the counters of its partitions, and its CPU, now and then.

The hot path only adds to counters (`broker.partition.load`). A sample costs a few comparisons per partition; of very
many a few are sampled at a time.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable

from broker.background import BackgroundTask
from broker.balance.model import Load
from broker.partition.load import WINDOW_S
from broker.partition.partition import Partition

SAMPLE_INTERVAL_S = 1.0
PARTITIONS_PER_TURN = 500


class LoadMeter:
    """`clock` and `cpu_clock` in seconds; the latter counts what this process has used of all cores."""

    def __init__(
        self,
        partitions: Callable[[], Iterable[Partition]],
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.total = Load()
        """Of all partitions, and of the process."""
        self._partitions = partitions
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._sampled_at = clock()
        self._sampled_cpu = cpu_clock()
        self._sampled_s = 0.0
        self._task = BackgroundTask(self._run, "load-meter")

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    def busiest(self, count: int) -> list[Partition]:
        """Those partitions that have anything to do, the busiest ones if there are more than `count`."""
        busy = [each for each in self._partitions() if each.load.request_rate]
        if len(busy) <= count:
            return busy
        return heapq.nlargest(count, busy, key=lambda each: each.load.bytes_in_rate + each.load.bytes_out_rate)

    async def sample(self) -> None:
        now, cpu = self._clock(), self._cpu_clock()
        elapsed_s = now - self._sampled_at
        if elapsed_s <= 0:
            return
        bytes_in = bytes_out = requests = 0.0
        for count, each in enumerate(list(self._partitions()), 1):
            load = each.load
            load.sample(elapsed_s)
            bytes_in += load.bytes_in_rate
            bytes_out += load.bytes_out_rate
            requests += load.request_rate
            if count % PARTITIONS_PER_TURN == 0:
                await asyncio.sleep(0)
        self._sampled_s = min(self._sampled_s + elapsed_s, WINDOW_S)
        used = (cpu - self._sampled_cpu) / elapsed_s
        cpu_rate = self.total.cpu + min(1.0, elapsed_s / self._sampled_s) * (used - self.total.cpu)
        self.total = Load(bytes_in, bytes_out, requests, cpu_rate)
        self._sampled_at, self._sampled_cpu = now, cpu

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL_S)
            await self.sample()
