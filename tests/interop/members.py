"""Members of a consumer group as processes, and what they told: the proof that no partition had two owners at a time.

A member prints an object a line (drivers/README.md), stamped with the machine's monotonic clock, which is one clock for
all processes. It says `revoked` before the broker hears of it, and `assigned` after the broker granted it, so two
members whose spans overlap owned the partition together. A member that is killed or stopped (SIGSTOP) owns nothing from
then on: it cannot act; what it does when it goes on is judged by its commits, none of which may succeed for a partition
that it has not been given again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.history import Assignment, Seen

from .clients import DRIVERS, Settings, java_program

Place = tuple[str, int]
"""Topic and partition."""
Event = dict[str, Any]
CLASSIC = ("group.protocol=classic", "session.timeout.ms=3000", "heartbeat.interval.ms=300")
CONSUMER = ("group.protocol=consumer",)


def java_member() -> list[str]:
    return java_program("Member", "error")


def librdkafka_member() -> list[str]:
    return [sys.executable, str(DRIVERS / "confluent_member.py")]


def places(event: Event) -> list[Place]:
    return [(topic, partition) for topic, partition in event["partitions"]]


class Member:
    """One process. `events` grows as it tells; everything else here is derived from it."""

    def __init__(
        self, name: str, program: Sequence[str], bootstrap: str, group: str, topics: str, settings: Settings = ()
    ) -> None:
        self.name = name
        self.events: list[Event] = []
        self.complaints: list[str] = []
        self.stopped_at: list[tuple[int, int]] = []
        """Monotonic nanoseconds from SIGSTOP to SIGCONT."""
        self.killed_at: int | None = None
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

    def owned(self) -> set[Place]:
        """What it believes to own now."""
        found: set[Place] = set()
        for event in list(self.events):
            if event["event"] == "assigned":
                found.update(places(event))
            elif event["event"] in ("revoked", "lost"):
                found.difference_update(places(event))
        return found

    def has_told(self, event: str, since: int = 0) -> bool:
        return any(each["event"] == event for each in self.events[since:])

    def polled_since(self, at_ns: int) -> bool:
        return any(each["event"] == "polled" and each["at"] > at_ns for each in self.events[-50:])

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
        self._process.send_signal(signal.SIGSTOP)
        self._stop_began = time.monotonic_ns()

    def resume(self) -> None:
        self.stopped_at.append((self._stop_began, time.monotonic_ns()))
        self._process.send_signal(signal.SIGCONT)


def wait_until(done: Callable[[], bool], what: Callable[[], object], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"did not happen: {what()}"
        time.sleep(0.03)


def spans(member: Member) -> list[tuple[Place, int, int]]:
    """(place, from, to) in monotonic nanoseconds for every time it owned a partition."""
    found: list[tuple[Place, int, int]] = []
    began: dict[Place, int] = {}
    halts = [begin for begin, _ in member.stopped_at]
    for event in member.events:
        if event["event"] == "assigned":
            began.update(dict.fromkeys(places(event), event["at"]))
        elif event["event"] in ("revoked", "lost"):
            found += [(place, began.pop(place), event["at"]) for place in places(event) if place in began]
    end = member.killed_at or (member.events[-1]["at"] if member.ended and member.events else 1 << 62)
    found += [(place, at, end) for place, at in began.items()]
    return [(place, at, min([end, *(halt for halt in halts if halt > at)])) for place, at, end in found]


def double_owners(members: Iterable[Member]) -> list[str]:
    """Every moment at which a partition had two owners."""
    owners: dict[Place, list[tuple[int, int, str]]] = defaultdict(list)
    for member in members:
        for place, begin, end in spans(member):
            owners[place].append((begin, end, member.name))
    found = []
    for place, taken in owners.items():
        for (_, end, one), (begin, _, other) in pairwise(sorted(taken)):
            if begin < end:
                found.append(f"{place}: {other} got it {(end - begin) / 1e6:.1f} ms before {one} had given it up")
    return found


def zombie_commits(members: Iterable[Member]) -> list[str]:
    """Commits that succeeded after a pause beyond the session, of partitions not given again since."""
    found = []
    for member in members:
        for _, resumed in member.stopped_at:
            given: set[Place] = set()
            for event in member.events:
                if event["at"] < resumed:
                    continue
                if event["event"] == "assigned":
                    given.update(places(event))
                elif event["event"] == "commit" and event["error"] is None:
                    stale = {(topic, partition) for topic, partition, _ in event["offsets"]} - given
                    if stale:
                        found.append(f"{member.name} committed {sorted(stale)} after it was fenced")
    return found


def needless_moves(member: Member, since: int) -> list[Place]:
    """Partitions that were taken away and came back to the same member, from its event number `since` on."""
    returned, gone = [], set()
    for event in member.events[since:]:
        if event["event"] == "revoked":
            gone.update(places(event))
        elif event["event"] == "assigned":
            returned += [place for place in places(event) if place in gone]
    return returned


@dataclass
class Watched:
    """A member as `tests.integration.load.history_of` wants a consumer."""

    assignments: list[tuple[float, str, Assignment]]


def watched(member: Member) -> Watched:
    """Its polls and commits as assignments of a history; each begins where its first poll began."""
    found: list[tuple[float, str, Assignment]] = []
    current: dict[Place, Assignment] = {}

    def begin(place: Place, at: int) -> None:
        current[place] = Assignment(member.name, place[1], None)

    for event in member.events:
        match event["event"]:
            case "assigned":
                for place in places(event):
                    begin(place, event["at"])
            case "polled":
                assignment = current[event["topic"], event["partition"]]
                if not assignment.seen:
                    assignment.start = event["records"][0][0]
                    found.append((event["at"], event["topic"], assignment))
                assignment.seen += [Seen(assignment.partition, offset, name) for offset, name in event["records"]]
            case "commit":
                for topic, partition, at in event["offsets"]:
                    assignment = current[topic, partition]
                    if event["error"] is not None:
                        assignment.uncertain.append(at)
                    else:
                        assignment.committed = at
                        assignment.uncertain.clear()
    return Watched(found)
