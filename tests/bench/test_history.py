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
    return History(sends, log, assignments)


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
    ],
)
def test_each_broken_promise_is_named(break_it: Callable[[History], None], kind: str) -> None:
    history = sound()
    break_it(history)
    assert kind in {violation.kind for violation in check(history)}
