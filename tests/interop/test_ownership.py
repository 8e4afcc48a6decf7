"""The checks of members' logs catch what they are for."""

from __future__ import annotations

from .ownership import Event, MemberLog, double_owners, needless_moves, watched, zombie_commits


def given(at: int, event: str, *partitions: int) -> Event:
    return {"at": at, "event": event, "partitions": [["t", each] for each in partitions]}


def commit(at: int, partition: int, offset: int, error: str | None = None) -> Event:
    return {"at": at, "event": "commit", "began": at - 1, "error": error, "offsets": [["t", partition, offset]]}


def test_a_hand_over_has_one_owner_at_a_time() -> None:
    one = MemberLog("one", [given(10, "assigned", 0, 1), given(20, "revoked", 1)])
    two = MemberLog("two", [given(21, "assigned", 1)])
    assert double_owners([one, two]) == []
    assert one.owned() == {("t", 0)}


def test_a_partition_given_before_it_is_given_up_has_two_owners() -> None:
    one = MemberLog("one", [given(10, "assigned", 0, 1), given(22, "revoked", 1)])
    two = MemberLog("two", [given(21, "assigned", 1)])
    assert len(double_owners([two, one])) == 1


def test_a_partition_that_nobody_gave_up_has_two_owners() -> None:
    assert len(double_owners([MemberLog(name, [given(at, "assigned", 0)]) for at, name in enumerate("ab")])) == 1


def test_the_dead_the_gone_and_the_paused_own_nothing() -> None:
    dead = MemberLog("dead", [given(10, "assigned", 0)], killed_at=19)
    gone = MemberLog("gone", [given(10, "assigned", 1), {"at": 18, "event": "closed"}])
    paused = MemberLog("paused", [given(10, "assigned", 2), given(40, "lost", 2)], stopped_at=[(15, 39)])
    heir = MemberLog("heir", [given(20, "assigned", 0, 1, 2)])
    assert double_owners([dead, gone, paused, heir]) == []


def test_a_commit_of_a_fenced_member_must_fail() -> None:
    events = [given(10, "assigned", 0), commit(40, 0, 7, "FENCED"), given(41, "lost", 0), given(50, "assigned", 1)]
    paused = MemberLog("paused", [*events, commit(51, 1, 3)], stopped_at=[(15, 39)])
    answered_late = {**commit(39, 0, 6), "at": 40}
    paused.events.insert(1, answered_late)
    assert zombie_commits([paused]) == []
    paused.events.append(commit(52, 0, 9))
    assert len(zombie_commits([paused])) == 1


def test_a_partition_taken_and_given_back_is_a_needless_move() -> None:
    member = MemberLog("one", [given(10, "assigned", 0, 1), given(20, "revoked", 0, 1), given(21, "assigned", 0)])
    assert needless_moves(member, 0) == [("t", 0)]
    assert needless_moves(member, 2) == []


def test_polls_and_commits_become_assignments() -> None:
    polled = {"at": 12, "event": "polled", "topic": "t", "partition": 0, "records": [[5, "a"], [6, "b"]]}
    log = [given(10, "assigned", 0), polled, commit(13, 0, 7), given(14, "revoked", 0), given(15, "assigned", 0)]
    again = {**polled, "at": 16, "records": [[7, "c"]]}
    first, second = (
        each for _, _, each in watched(MemberLog("one", [*log, again, commit(17, 0, 8, "lost")])).assignments
    )
    assert (first.start, first.committed, [each.id for each in first.seen]) == (5, 7, ["a", "b"])
    assert (second.start, second.committed, second.uncertain) == (7, None, [8])


def test_the_last_commit_of_a_killed_member_is_unknown() -> None:
    polled = {"at": 12, "event": "polled", "topic": "t", "partition": 0, "records": [[5, "a"], [6, "b"]]}
    log = [given(10, "assigned", 0), polled]
    (_, _, assignment), *_ = watched(MemberLog("dead", log, killed_at=13)).assignments
    assert assignment.uncertain == [7]


def test_assignments_are_ordered_by_when_they_were_given() -> None:
    """A paused member may read on in its old assignment when others have long gone further."""
    polled = {"at": 99, "event": "polled", "topic": "t", "partition": 0, "records": [[5, "a"]]}
    (at, _, _), *_ = watched(MemberLog("paused", [given(10, "assigned", 0), polled])).assignments
    assert at == 10
