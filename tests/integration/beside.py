"""A quiet client beside hostile ones: produces on a connection of its own, in a process of its own, and tells how long
its requests took. What the test does to the broker costs it no CPU time of its own process."""

from __future__ import annotations

import multiprocessing
import socket
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

from bench.broker_process import BrokerProcess
from bench.raw_load import read_frame
from tests.broker.hostile.mutation import batch

from .raw_client import produce_frame

PAUSE_S = 0.005
TIMEOUT_S = 60.0


class Latencies(NamedTuple):
    """In seconds."""

    count: int
    median: float
    p99: float
    slowest: float


class Beside:
    """`read` tells the latencies since the last `read`; at least one request has been answered since."""

    def __init__(self, broker: BrokerProcess, topic: str = "quiet") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_produce, args=(broker.host, broker.port, topic, end), daemon=True)

    def __enter__(self) -> Beside:
        self._process.start()
        self.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def read(self) -> Latencies:
        self._pipe.send(None)
        if not self._pipe.poll(TIMEOUT_S):
            raise TimeoutError("the quiet client is not answered")
        told: list[float] = sorted(self._pipe.recv())
        return Latencies(len(told), told[len(told) // 2], told[len(told) * 99 // 100], told[-1])


def _produce(host: str, port: int, topic: str, pipe: Connection) -> None:
    frame = produce_frame(topic, batch())
    took: list[float] = []
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        while True:
            started = time.monotonic()
            connection.sendall(frame)
            read_frame(connection)
            took.append(time.monotonic() - started)
            if pipe.poll(PAUSE_S):
                pipe.recv()
                pipe.send(took)
                took = []
