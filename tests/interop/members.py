"""Members of a consumer group as processes, in Java and by librdkafka; what they tell is judged by `ownership`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from .clients import DRIVERS, Settings, java_program
from .ownership import MemberLog

CLASSIC = ("group.protocol=classic", "session.timeout.ms=3000", "heartbeat.interval.ms=300")
CONSUMER = ("group.protocol=consumer",)


def java_member() -> list[str]:
    return java_program("Member", "error")


def librdkafka_member() -> list[str]:
    return [sys.executable, str(DRIVERS / "confluent_member.py")]


class Member(MemberLog):
    """One process. `events` grows as it tells."""

    def __init__(
        self, name: str, program: Sequence[str], bootstrap: str, group: str, topics: str, settings: Settings = ()
    ) -> None:
        super().__init__(name)
        self.complaints: list[str] = []
        self._stop_began = 0
        self._process = subprocess.Popen(
            [*program, bootstrap, group, topics, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [
            threading.Thread(target=target, daemon=True) for target in (self._read_output, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{") and line.endswith("\n"):
                self.events.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.complaints.extend(self._process.stderr)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def leave(self) -> None:
        """Ask it to commit and leave, and wait until it has."""
        self.ask_to_leave()
        self.wait()

    def ask_to_leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout_s: float = 30) -> None:
        code = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join()
        assert code == 0, f"{self.name}: exit {code}\n{''.join(self.complaints)[-3000:]}"

    def kill(self) -> None:
        if self._process.poll() is None:
            self.killed_at = time.monotonic_ns()
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def stop(self) -> None:
        self._stop_began = time.monotonic_ns()
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.stopped_at.append((self._stop_began, time.monotonic_ns()))
        self._process.send_signal(signal.SIGCONT)


def wait_until(done: Callable[[], bool], what: Callable[[], object], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what()}"
        time.sleep(0.03)
