"""The history checker: what clients sent and saw, judged record by record.

A history is what the *clients* know: each send with its outcome, each poll with what it returned, each commit. A value
carries the id of its send, so that every record seen is matched with the send that made it. The checker proves, for the
whole history:

* **lost**: a send that was acknowledged is not in the log that a complete read found;
* **moved**: it is there, but not at the offset of its acknowledgement, or in another partition than it was sent to;
* **duplicate**: one send is in the log twice (idempotent producers only);
* **reordered**: two sends of one producer to one partition are in the log against their order of sending;
* **phantom**: a record in the log that nobody sent, or whose send definitely failed;
* **hole**: the complete read has no record at an offset between the log's start and its end;
* **rewritten**: two polls saw different records at one offset;
* **backwards**: within one assignment a consumer's polls went back or skipped over a record that the log has;
* **unread**: a consumer that took over began above every position that a commit may have left, so that a record between
  was never seen; a commit is ahead of what was seen; or, where the group was waited for until it had read everything
  (`drained`), no consumer saw a record of the log. **lost** also names a commit that was acknowledged and is gone.

An unknown outcome (time-out, lost connection) may be in the log or not, and is never a violation by itself. One history
is of one topic; a record that strayed in from another one is a phantom.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise


class Outcome(Enum):
    """What a producer knows of a send."""

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    """Refused for good: it must not be in the log."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Send:
    """One record sent. `sequence` grows in the order of a producer's sends; `offset` is that of the acknowledgement."""

    id: str
    producer: str
    sequence: int
    partition: int
    outcome: Outcome = Outcome.UNKNOWN
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as a poll returned it."""

    partition: int
    offset: int
    id: str


@dataclass(slots=True)
class Assignment:
    """What one consumer saw of one partition between getting it and losing it.

    `start` is the position it began at: the committed offset, or None if the group had none (then it is the log's
    start). `committed` is the last position whose commit was acknowledged, `uncertain` are those tried after it whose
    outcome is unknown.
    """

    consumer: str
    partition: int
    start: int | None
    seen: list[Seen] = field(default_factory=list)
    committed: int | None = None
    uncertain: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `kind` is one of the words in the module docstring."""

    kind: str
    detail: str


@dataclass(slots=True)
class History:
    """`log` is a complete read of every partition after the dust has settled, in offset order per partition."""

    sends: list[Send] = field(default_factory=list)
    log: list[Seen] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)
    idempotent: bool = True
    drained: bool = False
    """The consumers went on until their commits had reached the end of the log."""
    log_start: int = 0
    """Where every partition of `log` begins; offsets are dense from here on (no compaction, no transactions)."""


def check(history: History) -> list[Violation]:
    """All violations found; an empty list is the proof that the history keeps every promise.

    Raises ValueError for a history that cannot be judged: two sends with one id.
    """
    if len({send.id for send in history.sends}) != len(history.sends):
        raise ValueError("two sends have the same id")
    log = _by_partition(history.log)
    return [
        *_check_log_against_sends(history, log),
        *_check_order(history, log),
        *_check_offsets(history, log),
        *_check_assignments(history, log),
        *_check_commits(history),
        *_check_drained(history),
    ]


def _by_partition(seen: Iterable[Seen]) -> dict[int, list[Seen]]:
    found: dict[int, list[Seen]] = defaultdict(list)
    for record in seen:
        found[record.partition].append(record)
    return found


def _check_log_against_sends(history: History, log: dict[int, list[Seen]]) -> Iterator[Violation]:
    sends = {send.id: send for send in history.sends}
    places: dict[str, list[Seen]] = defaultdict(list)
    for records in log.values():
        for record in records:
            places[record.id].append(record)
    for send in history.sends:
        found = places.get(send.id, [])
        if send.outcome is Outcome.ACKNOWLEDGED:
            if not found:
                yield Violation("lost", f"{send} is not in the log")
            elif send.offset is not None and all(
                (place.partition, place.offset) != (send.partition, send.offset) for place in found
            ):
                yield Violation("moved", f"{send} is at {found}")
        elif any(place.partition != send.partition for place in found):
            yield Violation("moved", f"{send} is at {found}")
        if history.idempotent and len(found) > 1:
            yield Violation("duplicate", f"{send} is at {found}")
    for record_id, found in places.items():
        known = sends.get(record_id)
        if known is None:
            yield Violation("phantom", f"{found[0]} was sent by nobody")
        elif known.outcome is Outcome.FAILED:
            yield Violation("phantom", f"{known} failed and is at {found}")


def _check_order(history: History, log: dict[int, list[Seen]]) -> Iterator[Violation]:
    if not history.idempotent:
        return
    sends = {send.id: send for send in history.sends}
    for partition, records in log.items():
        last: dict[str, Send] = {}
        for record in records:
            send = sends.get(record.id)
            if send is None:
                continue
            before = last.get(send.producer)
            if before is not None and before.sequence > send.sequence:
                yield Violation("reordered", f"partition {partition}: {before} stands before {send}")
            last[send.producer] = send


def _check_offsets(history: History, log: dict[int, list[Seen]]) -> Iterator[Violation]:
    ids: dict[tuple[int, int], str] = {}
    polled = (record for assignment in history.assignments for record in assignment.seen)
    for record in (*history.log, *polled):
        known = ids.setdefault((record.partition, record.offset), record.id)
        if known != record.id:
            yield Violation("rewritten", f"{record} was {known} before")
    for partition, records in log.items():
        if records[0].offset != history.log_start:
            yield Violation("hole", f"partition {partition} begins with {records[0]}, not at {history.log_start}")
        for before, after in pairwise(records):
            if after.offset <= before.offset:
                yield Violation("backwards", f"the complete read of partition {partition}: {after} after {before}")
            elif after.offset != before.offset + 1:
                yield Violation("hole", f"the complete read of partition {partition}: {after} follows {before}")


def _check_assignments(history: History, log: dict[int, list[Seen]]) -> Iterator[Violation]:
    offsets = {partition: [record.offset for record in records] for partition, records in log.items()}
    for assignment in history.assignments:
        if not assignment.seen:
            continue
        seen = [record.offset for record in assignment.seen]
        begin = assignment.start if assignment.start is not None else 0
        expected = [offset for offset in offsets.get(assignment.partition, []) if begin <= offset <= seen[-1]]
        if seen != expected:
            wrong = next((pair for pair in zip(seen, expected, strict=False) if pair[0] != pair[1]), None)
            told = (
                f"first difference (seen, in the log): {wrong}" if wrong else f"{len(seen)} of {len(expected)} records"
            )
            yield Violation(
                "backwards", f"{assignment.consumer} on partition {assignment.partition} from {begin}: {told}"
            )


def _check_commits(history: History) -> Iterator[Violation]:
    """Assignments are in the order in which they began."""
    possible: dict[int, set[int]] = defaultdict(lambda: {0})
    for assignment in history.assignments:
        known = possible[assignment.partition]
        start = assignment.start if assignment.start is not None else 0
        if start not in known:
            kind = "unread" if start > max(known) else "lost"
            yield Violation(kind, f"{assignment.consumer} began at {start}; commits left one of {sorted(known)}")
        position = assignment.seen[-1].offset + 1 if assignment.seen else start
        tried = [*assignment.uncertain, *([] if assignment.committed is None else [assignment.committed])]
        if any(at > position for at in tried):
            yield Violation("unread", f"{assignment.consumer} committed {tried} but had seen up to {position}")
        if assignment.committed is not None:
            known.clear()
            known.add(assignment.committed)
        known.update(assignment.uncertain)


def _check_drained(history: History) -> Iterator[Violation]:
    if not history.drained:
        return
    seen = {(record.partition, record.offset) for assignment in history.assignments for record in assignment.seen}
    missed = [record for record in history.log if (record.partition, record.offset) not in seen]
    if missed:
        yield Violation("unread", f"{len(missed)} records of the log were polled by nobody; the first is {missed[0]}")
