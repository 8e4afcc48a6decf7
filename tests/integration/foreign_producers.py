"""Other client libraries as watched producers: idempotent, acks=all, sending until they are told to stop.

They tell no offsets: each send is acknowledged once the client says at its end that all of them are.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.history import Outcome, Send
from tests.interop.clients import CLIENTS, record

from .load import TIMEOUT_S, Sender, Topics, headers_of, value_of

STEP_S = 0.005


class ForeignProducer(Sender):
    """Numbered records to all partitions of one topic, at a steady rate."""

    def __init__(self, address: str, topics: Topics, name: str, rate_per_s: int) -> None:
        super().__init__(name)
        self._address = address
        self._topic = next(iter(topics))
        self._partition_count = topics[self._topic]
        self._rate_per_s = rate_per_s

    def _due(self, began: float) -> Iterator[Send]:
        """What is to be sent by now."""
        while len(self.sends) < (time.monotonic() - began) * self._rate_per_s:
            number = len(self.sends)
            send = Send(f"{self.name}-{number}", self.name, number, number % self._partition_count)
            self.sends.append((self._topic, send))
            yield send

    def _all_acknowledged(self) -> None:
        for _, send in self.sends:
            send.outcome = Outcome.ACKNOWLEDGED


class DriverProducer(ForeignProducer):
    """A client of `tests.interop.drivers`, as a process that is fed record by record."""

    def _work(self) -> None:
        (client,) = [each for each in CLIENTS if each.name == self.name.partition(" ")[0]]
        with subprocess.Popen(
            [*client.driver(), "produce", self._address, self._topic, "lz4"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            began = time.monotonic()
            while not self.stopping.is_set():
                for send in self._due(began):
                    process.stdin.write(json.dumps(_record(send)) + "\n")
                process.stdin.flush()
                time.sleep(STEP_S)
            told, _ = process.communicate(timeout=TIMEOUT_S)
        assert [json.loads(line) for line in told.splitlines()] == [{"acked": len(self.sends)}], (
            f"{self.name}: {told!r}"
        )
        self._all_acknowledged()


def _record(send: Send) -> Mapping[str, Any]:
    headers = [(name, value) for name, value in headers_of(send.id) if isinstance(value, bytes)]
    return record(send.id.encode(), value_of(send.id), time.time_ns() // 1_000_000, headers, send.partition)


class AiokafkaProducer(ForeignProducer):
    """In a thread with an event loop of its own."""

    def _work(self) -> None:
        asyncio.run(self._produce())

    async def _produce(self) -> None:
        began = time.monotonic()
        waiting: list[asyncio.Future[Any]] = []
        async with AIOKafkaProducer(
            bootstrap_servers=self._address, acks="all", enable_idempotence=True, linger_ms=2, retry_backoff_ms=50
        ) as producer:
            while not self.stopping.is_set():
                waiting += [await self._send(producer, send) for send in self._due(began)]
                await asyncio.sleep(STEP_S)
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.gather(*waiting)
        self._all_acknowledged()

    async def _send(self, producer: AIOKafkaProducer, send: Send) -> asyncio.Future[Any]:
        """Returns the acknowledgement to come."""
        key, value, headers = send.id.encode(), value_of(send.id), headers_of(send.id)
        future: asyncio.Future[Any] = await producer.send(self._topic, value, key, send.partition, headers=headers)
        return future


FOREIGN: dict[str, type[ForeignProducer]] = {
    "aiokafka": AiokafkaProducer,
    "java": DriverProducer,
    "franz-go": DriverProducer,
}
