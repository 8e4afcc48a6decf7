"""What members of a consumer group told, and the proof that no partition had two owners at a time.

A member prints an object a line (drivers/README.md), stamped with the machine's monotonic clock, which is one clock for
all processes. It says `revoked` before the broker hears of it, and `assigned` after the broker granted it, so two
members whose spans overlap owned the partition together. A member that is killed or stopped (SIGSTOP) owns nothing from
then on: it cannot act; what it does when it goes on is judged by its commits, none of which may succeed for a partition
that it has not been given again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.history import Assignment, Seen

Place = tuple[str, int]
"""Topic and partition."""
Event = dict[str, Any]
_NEVER = 1 << 62


def places(event: Event) -> list[Place]:
    return [(topic, partition) for topic, partition in event["partitions"]]


@dataclass(eq=False)
class MemberLog:
    """All times are monotonic nanoseconds."""

    name: str
    events: list[Event] = field(default_factory=list)
    stopped_at: list[tuple[int, int]] = field(default_factory=list)
    """From SIGSTOP to SIGCONT."""
    killed_at: int | None = None

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


def spans(member: MemberLog) -> list[tuple[Place, int, int]]:
    """(place, from, to) in monotonic nanoseconds for every time it owned a partition."""
    found: list[tuple[Place, int, int]] = []
    began: dict[Place, int] = {}
    halts = [begin for begin, _ in member.stopped_at]
    for event in member.events:
        if event["event"] == "assigned":
            began.update(dict.fromkeys(places(event), event["at"]))
        elif event["event"] in ("revoked", "lost"):
            found += [(place, began.pop(place), event["at"]) for place in places(event) if place in began]
    closed_at = next((event["at"] for event in member.events if event["event"] == "closed"), _NEVER)
    end = closed_at if member.killed_at is None else member.killed_at
    found += [(place, at, end) for place, at in began.items()]
    return [(place, at, min([end, *(halt for halt in halts if halt > at)])) for place, at, end in found]


def double_owners(members: Iterable[MemberLog]) -> list[str]:
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


def zombie_commits(members: Iterable[MemberLog]) -> list[str]:
    """Commits asked for and granted after a pause beyond the session, of partitions not given again since."""
    found = []
    for member in members:
        for _, resumed in member.stopped_at:
            given: set[Place] = set()
            for event in member.events:
                if event["at"] < resumed:
                    continue
                if event["event"] == "assigned":
                    given.update(places(event))
                elif event["event"] == "commit" and event["error"] is None and event["began"] > resumed:
                    stale = {(topic, partition) for topic, partition, _ in event["offsets"]} - given
                    if stale:
                        found.append(f"{member.name} committed {sorted(stale)} after it was fenced")
    return found


def needless_moves(member: MemberLog, since: int) -> list[Place]:
    """Partitions that were taken away and came back to the same member, from its event number `since` on."""
    returned, gone = [], set()
    for event in member.events[since:]:
        if event["event"] == "revoked":
            gone.update(places(event))
        elif event["event"] == "assigned":
            returned += [place for place in places(event) if place in gone]
    return returned


def positions(members: Iterable[MemberLog]) -> dict[Place, int]:
    """How far anybody has read, where anybody has."""
    found: dict[Place, int] = defaultdict(int)
    for member in members:
        for event in list(member.events):
            if event["event"] == "polled":
                place = (event["topic"], event["partition"])
                found[place] = max(found[place], event["records"][-1][0] + 1)
    return found


@dataclass
class Watched:
    """A member as `tests.integration.load.history_of` wants a consumer."""

    assignments: list[tuple[float, str, Assignment]]


def watched(member: MemberLog) -> Watched:
    """Its polls and commits as assignments of a history; each begins where its first poll began."""
    found: list[tuple[float, str, Assignment]] = []
    current: dict[Place, Assignment] = {}
    given_at: dict[Place, int] = {}
    for event in member.events:
        match event["event"]:
            case "assigned":
                for place in places(event):
                    current[place], given_at[place] = Assignment(member.name, place[1], None), event["at"]
            case "polled":
                place = (event["topic"], event["partition"])
                assignment = current[place]
                if not assignment.seen:
                    assignment.start = event["records"][0][0]
                    found.append((given_at[place], place[0], assignment))
                assignment.seen += [Seen(assignment.partition, offset, name) for offset, name in event["records"]]
            case "commit":
                for topic, partition, at in event["offsets"]:
                    assignment = current[topic, partition]
                    if event["error"] is not None:
                        assignment.uncertain.append(at)
                    else:
                        assignment.committed = at
                        assignment.uncertain.clear()
    if member.killed_at is not None:  # its last commit may have been taken without its telling
        for place in member.owned():
            if current[place].seen:
                current[place].uncertain.append(current[place].seen[-1].offset + 1)
    return Watched(found)
