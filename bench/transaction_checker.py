"""The judge of `bench.transaction_history`. It proves, for the whole history:

* **aborted read**: a read_committed reader saw a record of an aborted transaction;
* **lost**: a read_committed reader passed over a committed transaction, a complete read_uncommitted one has no trace of
  an acknowledged send, or an input was never copied;
* **torn**: read_committed readers saw some records of a committed or ambiguous transaction and missed others of it;
* **undecided**: one read_committed reader saw a record of an ambiguous transaction that another one missed;
* **early**: a read_committed reader saw a record of a transaction before its commit began, or a record behind one of a
  transaction that was still open then;
* **duplicate**: one send is in the log twice, or an input was copied twice;
* **reordered**: two sends of one producer stand in a partition's log against their order of sending;
* **phantom**: a record that nobody sent, or the copy of an input that was not committed;
* **moved**: a record is not at the offset of its acknowledgement, or in another partition than it was sent to;
* **rewritten**: two polls, or a poll and an acknowledgement, have different records at one offset;
* **backwards**: within one reading, a poll went back, repeated an offset or left the position below what it returned;
* **gap**: a read_uncommitted reader passed over a record of the log.

An ambiguous transaction may turn out either way, but as a whole and the same for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

from bench.history import Violation
from bench.transaction_history import Copying, History, Isolation, Outcome, Place, Reading, Send, Transaction


def check(history: History) -> list[Violation]:
    """All violations found; an empty list is the proof that the history keeps every promise.

    Raises ValueError for a history that cannot be judged: two sends with one id, or copies without complete readings.
    """
    view = _View(history)
    return [
        *_check_polls(history, view),
        *_check_places(view),
        *_check_acknowledgements(view),
        *_check_order(view),
        *_check_uncommitted(history, view),
        *_check_transactions(history, view),
        *_check_early(history, view),
        *(_check_copies(history.copying, history, view) if history.copying is not None else ()),
    ]


class _View:
    """The log as all clients together know it."""

    def __init__(self, history: History) -> None:
        self.sends: dict[str, tuple[int, Send, Transaction]] = {}
        """Id -> number in its producer's order of sending, the send, its transaction."""
        self.sent_to: dict[Place, list[str]] = defaultdict(list)
        self.polled: dict[Place, dict[int, str]] = defaultdict(dict)
        self.found: dict[str, set[tuple[Place, int]]] = defaultdict(set)
        """Where readers have seen a record."""
        counts: Counter[str] = Counter()
        known: dict[Place, dict[int, str]] = defaultdict(dict)
        for transaction in history.transactions:
            for send in transaction.sends:
                if send.id in self.sends:
                    raise ValueError(f"two sends have the id {send.id}")
                self.sends[send.id] = counts[transaction.producer], send, transaction
                counts[transaction.producer] += 1
                self.sent_to[send.place].append(send.id)
                if send.offset is not None:
                    known[send.place][send.offset] = send.id
        for reading in history.readings:
            for offset, record_id in reading.records():
                self.polled[reading.place].setdefault(offset, record_id)
                self.found[record_id].add((reading.place, offset))
        for place, records in self.polled.items():
            known[place].update(records)
        self.log = {place: sorted(records.items()) for place, records in known.items()}
        """What is known to be in each partition, by polls and acknowledgements, in offset order."""
        self.read: dict[str, set[str]] = defaultdict(set)
        """Id -> the read_committed readers that saw it."""
        self.missed: dict[str, set[str]] = defaultdict(set)
        for reading in history.readings:
            if reading.isolation is Isolation.COMMITTED:
                for _, record_id in reading.records():
                    self.read[record_id].add(reading.reader)
                for record_id in self.passed_over(reading):
                    self.missed[record_id].add(reading.reader)

    def passed_over(self, reading: Reading) -> set[str]:
        """The records that it should have seen if they were to be read at all: of the log where it covered that; and if
        it is complete, whatever was sent to this partition, if that is in no log either."""
        covered, log = reading.covered(), self.log.get(reading.place, [])
        begin, end = bisect_left(log, (covered.start, "")), bisect_left(log, (covered.stop, ""))
        expected = {record_id for _, record_id in log[begin:end]}
        if reading.complete:
            expected.update(self.sent_to[reading.place])
        return expected.difference(record_id for _, record_id in reading.records())


def _check_polls(history: History, view: _View) -> Iterator[Violation]:
    for reading in history.readings:
        told = f"{reading.reader} in {reading.place}"
        position = reading.start if reading.start is not None else 0
        for poll in reading.polls:
            for offset, record_id in poll.records:
                if offset < position:
                    yield Violation("backwards", f"{told}: {record_id} at {offset}, but the position was {position}")
                before = view.polled[reading.place][offset]
                if before != record_id:
                    yield Violation("rewritten", f"{told}: at {offset} is {record_id}, and was {before} before")
                position = offset + 1
            if poll.position < position:
                yield Violation("backwards", f"{told}: the position is {poll.position} after {position}")
            position = poll.position


def _check_places(view: _View) -> Iterator[Violation]:
    for record_id, places in view.found.items():
        if record_id not in view.sends:
            yield Violation("phantom", f"{record_id} at {sorted(places)} was sent by nobody")
            continue
        _, send, _ = view.sends[record_id]
        if len(places) > 1:
            yield Violation("duplicate", f"{send} is at {sorted(places)}")
        if any(place != send.place for place, _ in places):
            yield Violation("moved", f"{send} is at {sorted(places)}")


def _check_acknowledgements(view: _View) -> Iterator[Violation]:
    for _, send, _ in view.sends.values():
        if send.offset is None:
            continue
        places = view.found.get(send.id)
        if places and (send.place, send.offset) not in places:
            yield Violation("moved", f"{send} is at {sorted(places)}")
        there = view.polled[send.place].get(send.offset, send.id)
        if there != send.id:
            yield Violation("rewritten", f"{send}, but {there} is there")


def _check_order(view: _View) -> Iterator[Violation]:
    for log in view.log.values():
        last: dict[str, tuple[int, Send]] = {}
        for _, record_id in log:
            if record_id not in view.sends:
                continue
            number, send, transaction = view.sends[record_id]
            before = last.get(transaction.producer)
            if before is not None and before[0] > number:
                yield Violation("reordered", f"{before[1]} stands before {send}")
            last[transaction.producer] = number, send


def _check_uncommitted(history: History, view: _View) -> Iterator[Violation]:
    for reading in history.readings:
        if reading.isolation is Isolation.COMMITTED:
            continue
        for record_id in sorted(view.passed_over(reading)):
            if record_id in view.found:
                yield Violation("gap", f"{reading.reader} in {reading.place} passed over {record_id}")
            elif view.sends[record_id][1].offset is not None:
                yield Violation("lost", f"{view.sends[record_id][1]} is not in the log of {reading.reader}")


def _check_transactions(history: History, view: _View) -> Iterator[Violation]:
    for transaction in history.transactions:
        ids = [send.id for send in transaction.sends]
        seen = [record_id for record_id in ids if view.read.get(record_id)]
        missed = [record_id for record_id in ids if view.missed.get(record_id)]
        told = f"transaction of {transaction.producer}, {transaction.outcome.value}"
        if transaction.outcome is Outcome.ABORTED:
            if seen:
                yield Violation("aborted read", f"{told}: {_readers(view.read, seen)}")
            continue
        both = sorted({*seen} & {*missed})
        if transaction.outcome is Outcome.UNKNOWN and both:
            yield Violation(
                "undecided", f"{told}: seen by {_readers(view.read, both)}, missed by {_readers(view.missed, both)}"
            )
        elif seen and missed:
            yield Violation(
                "torn", f"{told}: seen by {_readers(view.read, seen)}, missed by {_readers(view.missed, missed)}"
            )
        elif missed and transaction.outcome is Outcome.COMMITTED:
            yield Violation("lost", f"{told}: missed by {_readers(view.missed, missed)}")


def _readers(by_id: dict[str, set[str]], ids: list[str]) -> str:
    """At most three of them, for people to begin with."""
    told = [f"{record_id} by {', '.join(sorted(by_id[record_id]))}" for record_id in ids[:3]]
    return "; ".join(told) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _check_early(history: History, view: _View) -> Iterator[Violation]:
    """A transaction that came out committed was open from its first record to its commit: neither time-out nor fencing
    can have ended it between. Of others nothing is known about when they ended."""
    committed = [
        transaction
        for transaction in history.transactions
        if transaction.commit_began is not None
        and (transaction.outcome is Outcome.COMMITTED or any(view.read.get(send.id) for send in transaction.sends))
    ]
    first: dict[Place, list[tuple[int, Transaction]]] = defaultdict(list)
    """The first record of each in each partition: what a reader of that time must not have passed."""
    for transaction in committed:
        mine: dict[Place, int] = {}
        for send in transaction.sends:
            acknowledged = set() if send.offset is None else {(send.place, send.offset)}
            for place, offset in view.found.get(send.id, acknowledged):
                mine[place] = min(mine.get(place, offset), offset)
        for place, offset in mine.items():
            first[place].append((offset, transaction))
    for reading in history.readings:
        if reading.isolation is Isolation.COMMITTED:
            yield from _check_early_reading(reading, sorted(first[reading.place], key=lambda each: each[0]))


def _check_early_reading(reading: Reading, opened: list[tuple[int, Transaction]]) -> Iterator[Violation]:
    """What a poll stands behind for the first time must have been over by then; so it is for later polls."""
    behind = 0
    for poll in reading.polls:
        while behind < len(opened) and opened[behind][0] < poll.position:
            offset, transaction = opened[behind]
            behind += 1
            if transaction.commit_began is not None and transaction.commit_began > poll.ended:
                yield Violation(
                    "early",
                    f"{reading.reader} in {reading.place} stood at {poll.position} at {poll.ended:.6f}; the commit of "
                    f"{transaction.producer}'s transaction at {offset} began at {transaction.commit_began:.6f}",
                )


def _check_copies(copying: Copying, history: History, view: _View) -> Iterator[Violation]:
    inputs, copies = (_committed_records(history, topic) for topic in (copying.source, copying.target))
    sources = Counter(view.sends[record_id][1].source for record_id in copies if record_id in view.sends)
    for source, count in sources.items():
        if source not in inputs:
            yield Violation("phantom", f"{source} was copied, but it is not a committed input")
        elif count > 1:
            yield Violation("duplicate", f"{source} was copied {count} times")
    for record_id in sorted(inputs - set(sources)):
        yield Violation("lost", f"{record_id} was never copied")


def _committed_records(history: History, topic: str) -> set[str]:
    readings = [
        reading
        for reading in history.readings
        if reading.complete and reading.isolation is Isolation.COMMITTED and reading.place.topic == topic
    ]
    if not readings:
        raise ValueError(f"no complete reading of {topic}")
    return {record_id for reading in readings for _, record_id in reading.records()}
