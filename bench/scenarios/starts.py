"""P7, P10 (idle): from the start of a process on no data to the first ack, and memory before any load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bench.broker_process import BrokerProcess
from bench.figures import KAFKA, TAILRACE, Figure, Target
from bench.kafka_process import KafkaProcess
from bench.scenarios.api import START_S, Scenario
from bench.systems import Run

IDLE_S = 3.0
PATIENCE_S = 60.0

FIGURES = (
    Figure("P7.first", "process start to first ack, topic made on the way", "s", Target(at_most=1.0, against=None)),
    Figure("P10.idle", "resident memory, idle", "MB", Target(at_most=90.0, against=None)),
)


def run(run: Run) -> None:
    with run.tailrace() as broker:  # its port and byte code are known from now on
        broker.terminate()
    for _ in run.turns():
        _start(run, TAILRACE, BrokerProcess(run.directory(TAILRACE) / "data", port=broker.port))
        if run.libs is not None:
            node = KafkaProcess(run.libs, run.directory(KAFKA))
            node.format()
            _start(run, KAFKA, node)


def _start(run: Run, name: str, process: BrokerProcess | KafkaProcess) -> None:
    """Of a process whose port is known."""
    try:
        seconds = first_ack(process.spawn, process.address)
        time.sleep(IDLE_S)
        size = process.resident_size()
    finally:
        process.kill()
    run.say(f"  first ack of {name} after {seconds:.2f} s")
    run.results.add("P7.first", name, seconds)
    run.results.add("P10.idle", name, size / 1e6)


def seconds(run: Run) -> float:
    return 2.0 + run.rounds * (2 * IDLE_S + START_S + 2.0)


def first_ack(spawn: Callable[[], object], address: str) -> float:
    """Seconds from the call of `spawn` until a record was acknowledged. The client is warm: it has done this before."""

    async def produce() -> float:
        began = time.monotonic()
        spawn()
        while time.monotonic() < began + PATIENCE_S:
            producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", retry_backoff_ms=10)
            with suppress(KafkaError, OSError):
                try:
                    await producer.start()
                    await producer.send_and_wait("first", b"record")
                    return time.monotonic() - began
                finally:
                    await producer.stop()
            await asyncio.sleep(0.01)
        raise TimeoutError(f"no record was acknowledged within {PATIENCE_S:.0f} s")

    return asyncio.run(produce())


SCENARIO = Scenario("starts", "start of a process", FIGURES, run, seconds, rounds=5, needs_tools=False)
