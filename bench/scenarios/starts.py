"""P7, P10 (idle): from the start of a process on no data to the first ack, and memory before any load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bench import process_stats
from bench.broker_process import BrokerProcess
from bench.figures import KAFKA, TAILRACE, Figure, Target
from bench.kafka_process import KafkaProcess
from bench.scenarios.api import Scenario
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
    for _ in range(run.rounds):
        _tailrace(run, broker.port)
        if run.libs is not None:
            _kafka(run)


def _tailrace(run: Run, port: int) -> None:
    broker = BrokerProcess(run.directory("tailrace") / "data", port=port)
    try:
        seconds = first_ack(broker.spawn, lambda: broker.address)
        time.sleep(IDLE_S)
        _note(run, TAILRACE, seconds, process_stats.resident_size(broker.pid))
    finally:
        broker.kill()


def _kafka(run: Run) -> None:
    node = KafkaProcess(run.tools(), run.directory("kafka"))
    node.format()
    try:
        seconds = first_ack(node.spawn, lambda: node.address)
        time.sleep(IDLE_S)
        _note(run, KAFKA, seconds, process_stats.resident_size(node.pid))
    finally:
        node.stop()


def _note(run: Run, name: str, seconds: float, size: int) -> None:
    run.say(f"  first ack of {name} after {seconds:.2f} s")
    run.results.add("P7.first", name, seconds)
    run.results.add("P10.idle", name, size / 1e6)


def first_ack(spawn: Callable[[], object], address: Callable[[], str]) -> float:
    """Seconds from the call of `spawn` until a record was acknowledged. The client is warm: it has done this before."""

    async def produce() -> float:
        began = time.monotonic()
        spawn()
        while time.monotonic() < began + PATIENCE_S:
            producer = AIOKafkaProducer(bootstrap_servers=address(), acks="all", retry_backoff_ms=10)
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


SCENARIO = Scenario("starts", "start of a process", FIGURES, run, needs_tools=False)
