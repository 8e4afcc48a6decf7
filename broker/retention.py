"""Retention by time and size: where the log of a partition should begin, and the loop that makes it so.

Works at the grain of committed ranges (the part of a log in one object), as Kafka works on segments: a range goes as a
whole or stays. What is not uploaded yet always stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from broker.background import BackgroundTask
from broker.config.broker_config import BrokerConfig
from broker.partition import Partition
from broker.partitions import Partitions
from s3stream.api import RangeInfo

log = structlog.get_logger()

CHECKS_AT_ONCE = 64
"""Partitions whose start is moved at the same time: the storage writes what is concurrent as one transaction."""


def retained_from(
    ranges: Sequence[RangeInfo],
    log_start_offset: int,
    size: int,
    now_ms: int,
    retention_ms: int,
    retention_bytes: int,
) -> int:
    """The log start offset that retention asks for; at least `log_start_offset`.

    A range goes if its newest record is older than `retention_ms`, or if without it the log still has at least
    `retention_bytes`; -1 means no limit. The first one that stays ends the walk. A range without timestamps does not
    age.
    """
    for each in ranges:
        expired = 0 <= retention_ms < now_ms - each.max_timestamp and each.max_timestamp >= 0
        surplus = retention_bytes >= 0 and size - each.size >= retention_bytes
        if not (expired or surplus):
            break
        size -= each.size
        log_start_offset = max(log_start_offset, each.end_offset)
    return log_start_offset


class Retention:
    """Checks every partition led here each `log.retention.check.interval.ms`."""

    def __init__(self, partitions: Partitions, config: BrokerConfig, now_ms: Callable[[], int]) -> None:
        self._partitions = partitions
        self._config = config
        self._now_ms = now_ms
        self._task = BackgroundTask(self._run, "retention")

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    async def check(self) -> None:
        """One round over all partitions. An error of one of them does not keep the others."""
        partitions = list(self._partitions.all())
        for position in range(0, len(partitions), CHECKS_AT_ONCE):
            await asyncio.gather(*map(self._try_partition, partitions[position : position + CHECKS_AT_ONCE]))

    async def _try_partition(self, partition: Partition) -> None:
        if partition.closed:
            return
        try:
            await self._check_partition(partition)
        except Exception as error:
            log.warning("retention failed", topic=partition.topic, partition=partition.index, error=repr(error))

    async def _check_partition(self, partition: Partition) -> None:
        now_ms = self._now_ms()
        config = partition.config
        if config.deletes and (config.retention_ms >= 0 or config.retention_bytes >= 0):
            start_offset = retained_from(
                partition.log.ranges(),
                partition.log_start_offset,
                partition.size,
                now_ms,
                config.retention_ms,
                config.retention_bytes,
            )
            if start_offset > partition.log_start_offset:
                await partition.delete_records(min(start_offset, partition.high_watermark))
                log.info(
                    "retention moved the log start",
                    topic=partition.topic,
                    partition=partition.index,
                    log_start_offset=partition.log_start_offset,
                )
        await partition.maintain(now_ms, self._config.producer_id_expiration_ms)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.log_retention_check_interval_ms / 1000)
            await self.check()
