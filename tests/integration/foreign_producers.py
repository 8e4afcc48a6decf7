"""Client libraries as watched producers, by the drivers of `tests.interop`: idempotent, acks=all, sending until they
are told to stop, with all that makes them repeat and wait as their defaults have it.

An error that the library reports ends the driver, hence fails `stop` and `check`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bench.history import Outcome, Send
from tests.interop.clients import CLIENTS, DriverProcess, record

from .load import TIMEOUT_S, Sender, Topics, headers_of, value_of

STEP_S = 0.005


class ForeignProducer(Sender):
    """Numbered records to all partitions of one topic, at a steady rate. `client` is one of the drivers' names; `acks`
    are (`time.monotonic`, partition)."""

    def __init__(self, address: str, topics: Topics, client: str, rate_per_s: int) -> None:
        super().__init__(f"{client} producer")
        self.acks: list[tuple[float, int]] = []
        self._topic = next(iter(topics))
        self._partition_count = topics[self._topic]
        self._rate_per_s = rate_per_s
        self._process: DriverProcess | None = None
        (driver,) = [each.driver for each in CLIENTS if each.name == client]
        self._command = [*driver(), "produce", address, self._topic, "lz4", "tell=acks"]

    @property
    def acknowledged(self) -> int:
        return len(self.acks)

    def abandon(self) -> None:
        """Whatever it does, it ends now."""
        self.stopping.set()
        if self._process is not None:
            self._process.kill()

    def _work(self) -> None:
        process = self._process = DriverProcess(self.name, self._command, self._told)
        try:
            began = time.monotonic()
            while not self.stopping.is_set():
                process.feed("".join(json.dumps(_record(send)) + "\n" for send in self._due(began)))
                time.sleep(STEP_S)
            process.ask_to_end()
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
        assert self.acknowledged == len(self.sends), f"{self.name}: {self.acknowledged} of {len(self.sends)} acks"

    def _due(self, began: float) -> Iterator[Send]:
        """What is to be sent by now."""
        while len(self.sends) < (time.monotonic() - began) * self._rate_per_s:
            number = len(self.sends)
            send = Send(f"{self.name}-{number}", self.name, number, number % self._partition_count)
            self.sends.append((self._topic, send))
            yield send

    def _told(self, told: dict[str, Any]) -> None:
        if "n" not in told:
            return
        _, send = self.sends[told["n"]]
        self.acks.append((time.monotonic(), send.partition))
        send.offset = told["o"] if told["o"] >= 0 else None
        send.outcome = Outcome.ACKNOWLEDGED


def _record(send: Send) -> Mapping[str, Any]:
    headers = [(name, value) for name, value in headers_of(send.id) if isinstance(value, bytes)]
    return record(send.id.encode(), value_of(send.id), time.time_ns() // 1_000_000, headers, send.partition)
