from __future__ import annotations

from broker.partition.leader_epochs import UNDEFINED, LeaderEpochs


def epochs() -> LeaderEpochs:
    return LeaderEpochs([(2, 0), (4, 100), (7, 250)])


def test_the_current_epoch_ends_at_the_end_of_the_log() -> None:
    assert epochs().end_offset(7, 300) == (7, 300)


def test_an_older_epoch_ends_where_the_next_began() -> None:
    assert epochs().end_offset(4, 300) == (4, 250)


def test_an_epoch_without_records_is_answered_with_the_one_before() -> None:
    assert epochs().end_offset(5, 300) == (4, 250)


def test_an_epoch_older_than_all_is_answered_with_the_first_start() -> None:
    assert epochs().end_offset(1, 300) == (1, 0)


def test_an_epoch_newer_than_all_is_undefined() -> None:
    assert epochs().end_offset(8, 300) == (UNDEFINED, UNDEFINED)


def test_an_epoch_that_never_held_a_record_is_forgotten() -> None:
    mine = epochs()
    mine.assign(9, 250)
    assert mine.entries() == [(2, 0), (4, 100), (9, 250)]


def test_an_older_epoch_is_never_assigned() -> None:
    mine = epochs()
    mine.assign(6, 400)
    assert mine.entries() == epochs().entries()


def test_trimming_keeps_the_epoch_of_the_new_start() -> None:
    mine = epochs()
    mine.trim(120)
    assert mine.entries() == [(4, 120), (7, 250)]
    assert mine.epoch_at(120) == 4
    assert mine.epoch_at(119) == UNDEFINED
