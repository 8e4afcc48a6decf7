"""Copy jobs as processes: what they write becomes a history, and one that ends is started again.

A `Worker` is what an operator would run: one transactional id, of which one incarnation after another is alive. It
knows why one may end: it was killed, it was fenced or met another error that a restart heals, or it was told to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.transaction_history import Isolation, Outcome, Place, Poll, Reading, Send, Transaction

from .values import copy_id, id_of_copy, input_id

STOP_TIMEOUT_S = 60.0
FENCED = 3
"""Exit code of a job that only a restart heals."""


class Process:
    """A program of `jobs/`, with the lines that it has written so far."""

    def __init__(self, command: Sequence[str], options: Mapping[str, object], copy_to: Path | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.committed = 0
        self._copy_to = copy_to
        self._errors: list[str] = []
        self._process = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def tell_to_stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Until it has ended and all it wrote is there; returns the exit code."""
        try:
            code = self._process.wait(timeout_s)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        for reader in self._readers:
            reader.join()
        return code

    def last_words(self) -> str:
        errors = [event["text"] for event in self.events if event["e"] == "error"]
        return "\n".join([*errors[-5:], "".join(self._errors)[-3000:]])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with (self._copy_to or Path(os.devnull)).open("w", buffering=1) as copy:
            for line in self._process.stdout:
                copy.write(line)
                if not line.endswith("\n"):
                    break  # killed while it wrote: what the line announces was not begun
                event = json.loads(line)
                self.events.append(event)
                if event["e"] == "end" and event["outcome"] == Outcome.COMMITTED.value:
                    self.committed += 1

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


class Worker:
    """`options` are those of the job but for its name and seed. What incarnations wrote is kept in `directory`."""

    def __init__(self, name: str, command: Sequence[str], options: Mapping[str, object], directory: Path) -> None:
        self.name = name
        self._directory = directory
        self.incarnations: list[Process] = []
        self._command = [*command, "copy"]
        self._options = dict(options)
        self._alive: list[Process] = []
        self._abandoned = False

    def start(self) -> Process:
        """One more incarnation, also while another lives: the newer one fences it."""
        number = len(self.incarnations)
        name = f"{self.name}.{number}"
        names = {"name": name, "seed": number, "transactional.id": self.name}
        process = Process(self._command, {**self._options, **names}, self._directory / f"{name}.jsonl")
        self.incarnations.append(process)
        self._alive.append(process)
        return process

    def tend(self) -> None:
        """Start it again if it has ended. Raises AssertionError if it should not have."""
        for process in list(self._alive):
            code = process.returncode
            if code is None:
                continue
            process.wait()
            assert code in (FENCED, -signal.SIGKILL), f"{self.name} ended with {code}: {process.last_words()}"
            self._alive.remove(process)
        if not self._alive and not self._abandoned:
            self.start()

    def stands_at(self, *events: str) -> bool:
        """What the newest incarnation has announced last is one of these."""
        told = self.incarnations[-1].events
        return bool(told) and told[-1]["e"] in events

    def kill(self) -> None:
        for process in self._alive:
            process.signal(signal.SIGKILL)

    def abandon(self) -> None:
        """Killed for good: what it has begun must end without it."""
        self.kill()
        self._abandoned = True

    def pause(self) -> Callable[[], None]:
        """Returns what lets it go on. Nobody may signal it between."""
        paused = list(self._alive)
        for process in paused:
            process.signal(signal.SIGSTOP)

        def resume() -> None:
            for process in paused:
                if process.returncode is None:
                    process.signal(signal.SIGCONT)

        return resume

    def stop(self) -> None:
        """Let it finish what it has begun, or find out that it was fenced."""
        for process in self._alive:
            process.tell_to_stop()
        for process in self._alive:
            code = process.wait()
            assert code in (0, FENCED), f"{self.name} ended with {code}: {process.last_words()}"
        self._alive.clear()

    def committed(self) -> int:
        """Transactions so far, of all incarnations."""
        return sum(process.committed for process in self.incarnations)

    def history(self, source: str, target: str) -> tuple[list[Transaction], list[Reading]]:
        transactions: list[Transaction] = []
        readings: list[Reading] = []
        for number, process in enumerate(self.incarnations):
            producer = f"{self.name}.{number}"
            transactions.extend(transactions_of(process.events, producer, target))
            readings.extend(readings_of(process.events, producer, source, Isolation.COMMITTED, input_id))
        return transactions, readings


def transactions_of(events: Iterable[dict[str, Any]], producer: str, topic: str) -> list[Transaction]:
    """One without an end is ambiguous if its commit was announced. Else nobody ever asked for that: it is aborted."""
    found: list[Transaction] = []
    sends: dict[str, Send] = {}
    for event in events:
        match event["e"]:
            case "sends":
                sends = {}
                for own, partition, value in event["s"]:
                    source = input_id(value)
                    sends[own] = Send(id_of_copy(own, source), Place(topic, partition), source)
                found.append(Transaction(producer, list(sends.values()), Outcome.ABORTED))
            case "acks":
                for own, offset in event["s"]:
                    sends[own].offset = offset
            case "commit":
                found[-1].commit_began = event["t"]
                found[-1].outcome = Outcome.UNKNOWN
            case "end":
                found[-1].outcome = Outcome(event["outcome"])
    return found


def readings_of(
    events: Iterable[dict[str, Any]],
    reader: str,
    topic: str,
    isolation: Isolation,
    identify: Callable[[str], str],
    *,
    complete: bool = False,
) -> list[Reading]:
    found: list[Reading] = []
    current: dict[int, Reading] = {}
    for event in events:
        if event["e"] == "assigned":
            partition = event["p"]
            current[partition] = Reading(reader, Place(topic, partition), isolation, event["o"], complete=complete)
            found.append(current[partition])
        elif event["e"] == "poll":
            for partition, position in event["at"]:
                records = tuple((offset, identify(value)) for p, offset, value in event["r"] if p == partition)
                current[partition].polls.append(Poll(records, position, event["t"]))
    return found


def read_completely(
    command: Sequence[str], reader: str, bootstrap: str, topic: str, partitions: int, isolation: Isolation, copies: bool
) -> list[Reading]:
    """With the client's own reader, from the start to the end that the log has now."""
    options = {"bootstrap": bootstrap, "topic": topic, "partitions": partitions, "isolation": isolation.value}
    process = Process([*command, "read"], options)
    code = process.wait(120)
    assert code == 0, f"{reader} of {topic} ended with {code}: {process.last_words()}"
    identify = copy_id if copies else input_id
    return readings_of(process.events, reader, topic, isolation, identify, complete=True)


def wait_until(done: Callable[[], bool], what: Callable[[], str], timeout_s: float, tend: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        tend()
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
