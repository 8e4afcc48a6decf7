"""Members of a consumer group as processes, one program a client; what they tell is judged by `ownership`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clients import DRIVERS, DriverProcess, Settings, franz_driver, java_program
from .ownership import MemberLog

CLASSIC = ("group.protocol=classic", "session.timeout.ms=3000", "heartbeat.interval.ms=300")
CONSUMER = ("group.protocol=consumer",)


@dataclass(frozen=True, slots=True)
class MemberProgram:
    """`command` builds it where that is needed. It uses its client's defaults."""

    command: Callable[[], list[str]]
    one_broker: Settings = ()
    """For a cluster of one broker that is killed: without it a client that bootstraps anew does so without a pause
    (Java), or waits for it for ever (librdkafka)."""


PROGRAMS = {
    "java": MemberProgram(
        lambda: java_program("Member", "error"),
        (
            *("metadata.recovery.strategy=none", "reconnect.backoff.max.ms=100"),
            *("retry.backoff.max.ms=200", "metadata.max.age.ms=2000"),
        ),
    ),
    "librdkafka": MemberProgram(
        lambda: [sys.executable, str(DRIVERS / "confluent_member.py")],
        (
            *("metadata.recovery.strategy=none", "reconnect.backoff.max.ms=100"),
            *("topic.metadata.refresh.interval.ms=2000", "log_level=0"),
        ),
    ),
    "aiokafka": MemberProgram(lambda: [sys.executable, str(DRIVERS / "aiokafka_member.py")]),
    "franz-go": MemberProgram(lambda: [*franz_driver(), "member"]),
}


class Member(MemberLog):
    """One process. `events` grows as it tells."""

    def __init__(
        self, name: str, program: Sequence[str], bootstrap: str, group: str, topics: str, settings: Settings = ()
    ) -> None:
        super().__init__(name)
        self._stop_began = 0
        self._process = DriverProcess(name, [*program, bootstrap, group, topics, *settings], self._told)

    def _told(self, event: dict[str, object]) -> None:
        event.setdefault("at", time.monotonic_ns())
        self.events.append(event)

    @property
    def ended(self) -> bool:
        return self._process.has_ended

    def last_words(self) -> str:
        return self._process.last_words()

    def leave(self) -> None:
        """Ask it to commit and leave, and wait until it has."""
        self.ask_to_leave()
        self.wait()

    def ask_to_leave(self) -> None:
        self._process.ask_to_end()

    def wait(self, timeout_s: float = 30) -> None:
        self._process.wait(timeout_s)

    def kill(self) -> None:
        if not self.ended:
            self.killed_at = time.monotonic_ns()
        self._process.kill()

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
