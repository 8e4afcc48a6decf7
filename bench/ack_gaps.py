"""The longest time without an acknowledgement, by partition, while something happens to the brokers.

The client is aiokafka's idempotent producer with acks=all: one record to each partition every few milliseconds, so a
gap is the brokers' (and the client's own way of finding the new leader), not the load's. It runs in a thread of its
own, so the caller's thread may kill, stop and start processes meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

INTERVAL_S = 0.005
UNACKED_MAX = 300
"""Fits the client's buffers, so that a send never waits for room."""
DRAIN_S = 30.0


class AckGaps:
    """Produces while the context is open; then `longest(since)` tells. Raises what the client raised."""

    def __init__(self, addresses: Sequence[str], topic: str, partitions: int) -> None:
        self._addresses = list(addresses)
        self._topic = topic
        self._acked: list[list[float]] = [[] for _ in range(partitions)]
        self._stopping = threading.Event()
        self._flowing = threading.Event()
        self._error: BaseException | None = None
        self.failures = 0
        """Sends that the client gave up on."""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> AckGaps:
        self._thread.start()
        if not self._flowing.wait(DRAIN_S):
            raise TimeoutError("no record is acknowledged") from self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(2 * DRAIN_S)
        if self._error is not None and kind is None:
            raise self._error

    def wait_until_all_flow(self, since: float, timeout_s: float) -> None:
        """Until every partition had an acknowledgement after `since`. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while not all(acked and acked[-1] > since for acked in self._acked):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a partition had no acknowledgement for {timeout_s:.0f} s")
            time.sleep(0.02)

    def longest(self, since: float) -> float:
        """Seconds, over all partitions, of gaps that ended after `since` (`time.monotonic`)."""
        gaps = [after - before for acked in self._acked for before, after in pairwise(acked) if after >= since]
        return max(gaps, default=0.0)

    def _run(self) -> None:
        try:
            asyncio.run(self._produce())
        except BaseException as error:
            self._error = error
            self._flowing.set()

    async def _produce(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._addresses,
            acks="all",
            enable_idempotence=True,
            retry_backoff_ms=20,
            request_timeout_ms=30_000,
        )
        await producer.start()
        unacked: set[asyncio.Future[object]] = set()
        try:
            while not self._stopping.is_set():
                if len(unacked) < UNACKED_MAX:
                    for partition in range(len(self._acked)):
                        future = await producer.send(self._topic, b"x" * 100, partition=partition)
                        unacked.add(future)
                        future.add_done_callback(lambda done, at=partition: self._done(done, at, unacked))
                await asyncio.sleep(INTERVAL_S)
            async with asyncio.timeout(DRAIN_S):
                await producer.flush()
        finally:
            await producer.stop()

    def _done(self, future: asyncio.Future[object], partition: int, unacked: set[asyncio.Future[object]]) -> None:
        unacked.discard(future)
        if future.cancelled() or isinstance(future.exception(), KafkaError):
            self.failures += 1
            return
        self._acked[partition].append(time.monotonic())
        if all(self._acked):
            self._flowing.set()
