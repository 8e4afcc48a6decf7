"""The checker passes sound histories of transactions, also random ones, and names each kind of broken one."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.transaction_checker import check
from bench.transaction_history import (
    Copying,
    History,
    Isolation,
    Outcome,
    Place,
    Poll,
    Reading,
    Send,
    Transaction,
)

ONE, TWO, INPUT = Place("t", 0), Place("t", 1), Place("in", 0)
RC, RU = Isolation.COMMITTED, Isolation.UNCOMMITTED


def reading(name: str, place: Place, isolation: Isolation, *polls: Poll, complete: bool = False) -> Reading:
    return Reading(name, place, isolation, 0, list(polls), complete)


def sound() -> History:
    """Three inputs are copied into two partitions, after an abort, by two producers; one commit has no answer.

    in-0: i0 i1 i2 (committed at 1) | t-0: a0 x B0 A x C | t-1: a1 x B1 A x C, B ambiguous and committed
    """
    transactions = [
        Transaction("in", [Send("i0", INPUT), Send("i1", INPUT), Send("i2", INPUT)], Outcome.COMMITTED, 1.0),
        Transaction("p", [Send("a0", ONE, "i0", 0), Send("a1", TWO, "i1")], Outcome.ABORTED),
        Transaction("p", [Send("b0", ONE, "i0", 2), Send("b1", TWO, "i1", 2)], Outcome.UNKNOWN, 10.0),
        Transaction("q", [Send("c0", ONE, "i2", 3)], Outcome.COMMITTED, 12.0),
        Transaction("q", [Send("d0", ONE, "i2")], Outcome.UNKNOWN, 20.0),
    ]
    inputs = Poll(((0, "i0"), (1, "i1"), (2, "i2")), 4, 5.0)
    readings = [
        reading("rc", INPUT, RC, inputs, complete=True),
        reading("rc", ONE, RC, Poll(((2, "b0"),), 3, 15.0), Poll(((3, "c0"),), 6, 30.0), complete=True),
        reading("rc", TWO, RC, Poll(((2, "b1"),), 4, 31.0), complete=True),
        reading("live", ONE, RC, Poll((), 2, 9.0), Poll(((2, "b0"),), 3, 11.0)),
        reading("ru", ONE, RU, Poll(((0, "a0"), (2, "b0"), (3, "c0")), 6, 32.0), complete=True),
        reading("ru", TWO, RU, Poll(((0, "a1"), (2, "b1")), 4, 32.0), complete=True),
    ]
    return History(transactions, readings, Copying("in", "t"))


def test_a_sound_history_has_no_violation() -> None:
    assert check(sound()) == []


def poll(history: History, reading: int, number: int, records: tuple[tuple[int, str], ...], **changes: float) -> None:
    polls = history.readings[reading].polls
    polls[number] = replace(polls[number], records=records, **changes)  # type: ignore[arg-type]


def read_aborted(history: History) -> None:
    poll(history, 1, 0, ((0, "a0"), (2, "b0")))


def miss_committed(history: History) -> None:
    poll(history, 1, 1, ())


def forget_the_log(history: History) -> None:
    """Nobody has seen what was committed."""
    miss_committed(history)
    poll(history, 4, 0, ((0, "a0"), (2, "b0")))
    history.transactions[3].sends[0].offset = None


def lose_acknowledged(history: History) -> None:
    poll(history, 4, 0, ((2, "b0"), (3, "c0")))


def copy_nothing(history: History) -> None:
    history.transactions[3].sends[0].source = "i1"


def tear_ambiguous(history: History) -> None:
    poll(history, 2, 0, ())


def tear_committed(history: History) -> None:
    history.transactions[2].outcome = Outcome.COMMITTED
    poll(history, 2, 0, ())


def tear_by_a_record_that_never_came(history: History) -> None:
    history.transactions[2].sends.append(Send("b2", TWO, "i0"))


def disagree(history: History) -> None:
    poll(history, 3, 1, ())


def read_before_the_commit(history: History) -> None:
    poll(history, 3, 1, ((2, "b0"),), ended=9.5)


def pass_an_open_transaction(history: History) -> None:
    """It was at 2 when the transaction that begins there was open, and went on to 3 then."""
    poll(history, 3, 0, (), position=3)
    poll(history, 3, 1, ())


def read_behind_an_open_transaction(history: History) -> None:
    history.transactions[2].commit_began = 40.0


def repeat_a_send(history: History) -> None:
    poll(history, 1, 1, ((3, "c0"), (5, "c0")))


def copy_twice(history: History) -> None:
    history.transactions[3].sends[0].source = "i0"


def reorder(history: History) -> None:
    """One producer's two transactions, the later one first."""
    history.transactions[3].producer = "p"
    history.transactions.insert(2, history.transactions.pop(3))


def reorder_within_a_transaction(history: History) -> None:
    history.transactions[0].sends.reverse()


def invent(history: History) -> None:
    poll(history, 4, 0, ((0, "a0"), (2, "b0"), (3, "c0"), (5, "nobody")))


def copy_an_aborted_input(history: History) -> None:
    history.transactions[0].sends[0].id = "i9"
    poll(history, 0, 0, ((0, "i9"), (1, "i1"), (2, "i2")))


def move_to_another_offset(history: History) -> None:
    history.transactions[2].sends[0].offset = 1


def move_to_another_partition(history: History) -> None:
    history.transactions[1].sends[1].place = ONE


def rewrite(history: History) -> None:
    poll(history, 3, 1, ((2, "c0"),))


def rewrite_an_acknowledgement(history: History) -> None:
    history.transactions[4].sends[0].offset = 3


def go_back(history: History) -> None:
    poll(history, 1, 1, ((2, "b0"), (3, "c0")))


def repeat_within_a_poll(history: History) -> None:
    poll(history, 0, 0, ((0, "i0"), (1, "i1"), (1, "i1"), (2, "i2")))


def fall_back(history: History) -> None:
    poll(history, 1, 1, ((3, "c0"),), position=3)


def skip_in_a_poll(history: History) -> None:
    poll(history, 4, 0, ((0, "a0"), (3, "c0")))


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (read_aborted, "aborted read"),
        (miss_committed, "lost"),
        (forget_the_log, "lost"),
        (lose_acknowledged, "lost"),
        (copy_nothing, "lost"),
        (tear_ambiguous, "torn"),
        (tear_committed, "torn"),
        (tear_by_a_record_that_never_came, "torn"),
        (disagree, "undecided"),
        (read_before_the_commit, "early"),
        (pass_an_open_transaction, "early"),
        (read_behind_an_open_transaction, "early"),
        (repeat_a_send, "duplicate"),
        (copy_twice, "duplicate"),
        (reorder, "reordered"),
        (reorder_within_a_transaction, "reordered"),
        (invent, "phantom"),
        (copy_an_aborted_input, "phantom"),
        (move_to_another_offset, "moved"),
        (move_to_another_partition, "moved"),
        (rewrite, "rewritten"),
        (rewrite_an_acknowledgement, "rewritten"),
        (go_back, "backwards"),
        (repeat_within_a_poll, "backwards"),
        (fall_back, "backwards"),
        (skip_in_a_poll, "gap"),
    ],
)
def test_each_broken_promise_is_named(break_it: Callable[[History], None], kind: str) -> None:
    history = sound()
    break_it(history)
    assert kind in {violation.kind for violation in check(history)}


def test_an_ambiguous_transaction_that_nobody_saw_is_fine() -> None:
    history = sound()
    history.copying = None
    for number in (1, 2, 3):
        for index, each in enumerate(history.readings[number].polls):
            poll(history, number, index, tuple(record for record in each.records if not record[1].startswith("b")))
    assert check(history) == []


def test_a_history_with_two_sends_of_one_id_is_refused() -> None:
    history = sound()
    history.transactions.append(history.transactions[0])
    with pytest.raises(ValueError, match="the id i0"):
        check(history)


def test_copies_cannot_be_judged_without_a_complete_reading() -> None:
    history = sound()
    del history.readings[0]
    with pytest.raises(ValueError, match="no complete reading of in"):
        check(history)


class World:
    """A right broker in memory: transactional producers and readers of two partitions, step by step by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.history = History()
        self.logs: dict[Place, list[tuple[str, Transaction] | None]] = {ONE: [], TWO: []}
        """None is a marker."""
        self.open: list[Transaction] = []
        self.fate: dict[int, bool] = {}
        """By identity of the transaction: was it committed?"""
        self.sent = 0

    def run(self, steps: int) -> History:
        for _ in range(steps):
            self.now += 1
            self.chance.choice([self.begin, self.send, self.send, self.end, self.read, self.read])()
        while self.open:
            self.end()
        for isolation in Isolation:
            for place in self.logs:
                last = Reading(f"last {isolation.value}", place, isolation, 0, [], complete=True)
                self.history.readings.append(last)
                while last.covered().stop < len(self.logs[place]):
                    self.poll(last)
        return self.history

    def begin(self) -> None:
        if len(self.open) < 3:
            transaction = Transaction(f"p{len(self.open)}-{self.now}")
            self.open.append(transaction)
            self.history.transactions.append(transaction)

    def send(self) -> None:
        if not self.open:
            return
        transaction, place = self.chance.choice(self.open), self.chance.choice([ONE, TWO])
        self.sent += 1
        send = Send(f"{transaction.producer}/{self.sent}", place)
        if self.chance.random() < 0.7:
            send.offset = len(self.logs[place])
        transaction.sends.append(send)
        self.logs[place].append((send.id, transaction))

    def end(self) -> None:
        if not self.open:
            return
        transaction = self.open.pop(self.chance.randrange(len(self.open)))
        committed = self.chance.random() < 0.6
        self.fate[id(transaction)] = committed
        if committed or self.chance.random() < 0.3:
            transaction.commit_began = self.now
        if self.chance.random() < 0.7 or (not committed and transaction.commit_began is None):
            transaction.outcome = Outcome.COMMITTED if committed else Outcome.ABORTED
        for place in {send.place for send in transaction.sends}:
            self.logs[place].append(None)

    def read(self) -> None:
        if not self.history.readings or self.chance.random() < 0.1:
            place = self.chance.choice([ONE, TWO])
            start = self.chance.randrange(self.stable_end(place) + 1)
            isolation = self.chance.choice(list(Isolation))
            self.history.readings.append(Reading(f"r{self.now}", place, isolation, start))
        self.poll(self.chance.choice(self.history.readings))

    def stable_end(self, place: Place) -> int:
        log = self.logs[place]
        unstable = (index for index, entry in enumerate(log) if entry is not None and id(entry[1]) not in self.fate)
        return next(unstable, len(log))

    def poll(self, reading: Reading) -> None:
        log = self.logs[reading.place]
        position = reading.covered().stop
        end = len(log) if reading.isolation is RU else self.stable_end(reading.place)
        position_after = min(end, position + self.chance.randrange(1, 5))
        records = []
        for offset in range(position, position_after):
            entry = log[offset]
            if entry is not None and (reading.isolation is RU or self.fate[id(entry[1])]):
                records.append((offset, entry[0]))
        if position_after > position:
            reading.polls.append(Poll(tuple(records), position_after, self.now))


seeds = st.integers(0, (1 << 32) - 1)


@given(seeds, st.integers(0, 150))
@settings(max_examples=150, deadline=None)
def test_random_sound_histories_have_no_violation(seed: int, steps: int) -> None:
    assert check(World(seed).run(steps)) == []


@given(seeds, st.data())
@settings(max_examples=100, deadline=None)
def test_a_known_record_taken_from_any_reading_is_missed(seed: int, data: st.DataObject) -> None:
    """Known: acknowledged, and committed where the reader sees only that. Of others nobody may have another trace."""
    history = World(seed).run(100)
    sends = {send.id: (send, each) for each in history.transactions for send in each.sends}
    known = [
        (reading, number, record)
        for reading in history.readings
        for number, each in enumerate(reading.polls)
        for record in each.records
        if sends[record[1]][0].offset is not None
        and (reading.isolation is RU or sends[record[1]][1].outcome is Outcome.COMMITTED)
    ]
    assume(known)
    reading, number, taken = data.draw(st.sampled_from(known))
    rest = tuple(record for record in reading.polls[number].records if record != taken)
    reading.polls[number] = replace(reading.polls[number], records=rest)
    assert {violation.kind for violation in check(history)} & {"lost", "torn", "gap"}


@given(seeds, st.data())
@settings(max_examples=100, deadline=None)
def test_an_aborted_record_given_to_any_committed_reader_is_named(seed: int, data: st.DataObject) -> None:
    world = World(seed)
    history = world.run(100)
    aborted = [
        (offset, entry[0], place)
        for place, log in world.logs.items()
        for offset, entry in enumerate(log)
        if entry is not None and entry[1].outcome is Outcome.ABORTED
    ]
    by_place: dict[Place, list[Reading]] = defaultdict(list)
    for reading in history.readings:
        if reading.isolation is RC:
            by_place[reading.place].append(reading)
    assume(aborted)
    offset, record_id, place = data.draw(st.sampled_from(aborted))
    reading = data.draw(st.sampled_from(by_place[place]))
    reading.polls.append(Poll(((offset, record_id),), offset + 1, world.now))
    assert "aborted read" in {violation.kind for violation in check(history)}
