"""The checker passes a sound history and names each kind of broken one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.history import Assignment, History, Outcome, Seen, Send, check


def sound() -> History:
    """Two producers, one partition; one unknown send is in the log, another is not; two consumers in turn."""
    sends = [
        Send("a0", "a", 0, 0, Outcome.ACKNOWLEDGED, 0),
        Send("b0", "b", 0, 0, Outcome.ACKNOWLEDGED, 1),
        Send("a1", "a", 1, 0, Outcome.UNKNOWN),
        Send("a2", "a", 2, 0, Outcome.ACKNOWLEDGED, 3),
        Send("b1", "b", 1, 0, Outcome.UNKNOWN),
        Send("b2", "b", 2, 0, Outcome.FAILED),
    ]
    log = [Seen(0, 0, "a0"), Seen(0, 1, "b0"), Seen(0, 2, "a1"), Seen(0, 3, "a2")]
    assignments = [
        Assignment("c1", 0, None, log[:2], committed=1),
        Assignment("c2", 0, 1, log[1:], committed=4),
    ]
    return History(sends, log, assignments, drained=True)


def test_a_sound_history_has_no_violation() -> None:
    assert check(sound()) == []


def lose(history: History) -> None:
    del history.log[3]
    history.assignments[1].seen = history.log[1:]
    history.assignments[1].committed = 3


def move(history: History) -> None:
    history.sends[3].offset = 7


def duplicate(history: History) -> None:
    history.log.append(Seen(0, 4, "a2"))


def reorder(history: History) -> None:
    history.sends[0].sequence = 5


def invent(history: History) -> None:
    history.log.append(Seen(0, 4, "nobody"))


def resurrect(history: History) -> None:
    history.log.append(Seen(0, 4, "b2"))


def rewrite(history: History) -> None:
    history.assignments[0].seen = [Seen(0, 0, "a0"), Seen(0, 1, "b1")]


def skip(history: History) -> None:
    del history.assignments[1].seen[1]


def go_back(history: History) -> None:
    history.assignments[1].seen.insert(2, Seen(0, 1, "b0"))


def begin_late(history: History) -> None:
    history.assignments[1].start = 2
    history.assignments[1].seen = history.log[2:]


def forget_commit(history: History) -> None:
    history.assignments[1].start = 0
    history.assignments[1].seen = history.log[0:]


def stray(history: History) -> None:
    """An unknown send turns up in another partition; nobody is right to expect it there."""
    history.log[2] = Seen(0, 2, "b1")
    history.assignments[1].seen = history.log[1:]
    history.sends[4].partition = 1


def leave_a_hole(history: History) -> None:
    history.log[3] = Seen(0, 4, "a2")
    history.sends[3].offset = 4
    history.assignments[1].seen = history.log[1:]
    history.assignments[1].committed = 5


def lose_the_start(history: History) -> None:
    history.sends[0].outcome = Outcome.UNKNOWN
    history.assignments[0].seen = history.log[:0]
    history.assignments[0].start = 1
    del history.log[0]


def commit_ahead(history: History) -> None:
    history.assignments[0].uncertain = [3]


def stop_early(history: History) -> None:
    del history.assignments[1].seen[2]
    history.assignments[1].committed = 3


def never_consume(history: History) -> None:
    history.assignments.clear()


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (lose, "lost"),
        (move, "moved"),
        (duplicate, "duplicate"),
        (reorder, "reordered"),
        (invent, "phantom"),
        (resurrect, "phantom"),
        (rewrite, "rewritten"),
        (skip, "backwards"),
        (go_back, "backwards"),
        (begin_late, "unread"),
        (forget_commit, "lost"),
        (stray, "moved"),
        (leave_a_hole, "hole"),
        (lose_the_start, "hole"),
        (commit_ahead, "unread"),
        (stop_early, "unread"),
        (never_consume, "unread"),
    ],
)
def test_each_broken_promise_is_named(break_it: Callable[[History], None], kind: str) -> None:
    history = sound()
    break_it(history)
    assert kind in {violation.kind for violation in check(history)}


def test_a_history_with_two_sends_of_one_id_is_refused() -> None:
    history = sound()
    history.sends.append(history.sends[0])
    with pytest.raises(ValueError, match="same id"):
        check(history)
