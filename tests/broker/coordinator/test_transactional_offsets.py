from __future__ import annotations

import pytest

from broker.coordinator.group.records import OffsetCommit, decode_record
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.shard import FULL_RETRY_S
from protocol.errors import ErrorCode
from protocol.types import ZERO_UUID
from tests.broker.coordinator.harness import Coordinator, commit_error, offset_of

P0 = ("t", 0)


def stable_error(coordinator: Coordinator) -> int:
    code: int = coordinator.fetch("g", P0, stable=True).response.topics[0].partitions[0].error_code
    return code


def test_a_commit_counts_once_its_transaction_is_committed() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {P0: 3})
    assert commit_error(coordinator.commit_in_transaction("g", {P0: 7})) == ErrorCode.NONE
    assert offset_of(coordinator.fetch("g", P0)) == 3
    assert stable_error(coordinator) == ErrorCode.UNSTABLE_OFFSET_COMMIT
    assert coordinator.end_transaction(commit=True).response == ErrorCode.NONE
    assert offset_of(coordinator.fetch("g", P0, stable=True)) == 7
    assert stable_error(coordinator) == ErrorCode.NONE


def test_an_aborted_one_never_counts() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {P0: 3})
    coordinator.commit_in_transaction("g", {P0: 7})
    coordinator.end_transaction(commit=False)
    assert offset_of(coordinator.fetch("g", P0, stable=True)) == 3


def test_a_group_that_only_ever_had_an_aborted_commit_is_gone_with_it() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 7})
    assert coordinator.describe("g").group_state == "Empty"
    coordinator.end_transaction(commit=False)
    assert coordinator.describe("g").group_state == "Dead"


def test_of_two_commits_the_later_in_the_log_wins_whenever_markers_come() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 1}, producer_id=1)
    coordinator.commit_in_transaction("g", {P0: 2}, producer_id=2)
    coordinator.end_transaction(commit=True, producer_id=2)
    coordinator.end_transaction(commit=True, producer_id=1)
    assert offset_of(coordinator.fetch("g", P0)) == 2
    coordinator.commit_in_transaction("g", {P0: 3}, producer_id=1)
    coordinator.commit("g", {P0: 4})
    coordinator.end_transaction(commit=True, producer_id=1)
    assert offset_of(coordinator.fetch("g", P0)) == 4
    coordinator.restart()
    assert offset_of(coordinator.fetch("g", P0)) == 4


def test_a_later_commit_in_the_same_transaction_replaces_the_earlier() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 1})
    coordinator.commit("g", {P0: 2})
    coordinator.commit_in_transaction("g", {P0: 3})
    coordinator.end_transaction(commit=True)
    assert offset_of(coordinator.fetch("g", P0)) == 3


def test_a_marker_without_a_transaction_changes_nothing() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 1})
    coordinator.end_transaction(commit=True)
    coordinator.commit("g", {P0: 2})
    for commit in (True, False):
        assert coordinator.end_transaction(commit).response == ErrorCode.NONE
    assert offset_of(coordinator.fetch("g", P0)) == 2


@pytest.mark.parametrize("ended", [None, True, False])
def test_loading_finds_open_committed_and_aborted_transactions(ended: bool | None) -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {P0: 1})
    coordinator.commit_in_transaction("g", {P0: 2})
    if ended is not None:
        coordinator.end_transaction(ended)
    coordinator.restart()
    assert offset_of(coordinator.fetch("g", P0)) == (2 if ended else 1)
    assert stable_error(coordinator) == (ErrorCode.UNSTABLE_OFFSET_COMMIT if ended is None else ErrorCode.NONE)
    if ended is None:
        coordinator.end_transaction(commit=True)
        assert offset_of(coordinator.fetch("g", P0)) == 2


# -- who may ----------------------------------------------------------------------------------------
def test_a_producer_is_fenced_with_the_member_that_it_names() -> None:
    coordinator = Coordinator()
    joining = coordinator.join("g", instance_id="i")
    coordinator.advance(coordinator.config.initial_rebalance_delay_ms * 2)
    member, generation = joining.response.member_id, joining.response.generation_id
    coordinator.sync("g", member, generation, {member: b"a"}, instance_id="i")

    def commit(**who: object) -> int:
        return commit_error(coordinator.commit_in_transaction("g", {P0: 1}, **who))  # type: ignore[arg-type]

    assert commit(member_id=member, generation=generation, instance_id="i") == ErrorCode.NONE
    assert commit(member_id=member, generation=generation - 1) == ErrorCode.ILLEGAL_GENERATION
    assert commit(member_id="stranger", generation=generation) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(member_id="other", generation=generation, instance_id="i") == ErrorCode.FENCED_INSTANCE_ID
    assert commit() == ErrorCode.NONE, "older producers name nobody"


def test_a_group_that_does_not_exist_has_no_generations() -> None:
    coordinator = Coordinator()
    reply = coordinator.commit_in_transaction("g", {P0: 1}, member_id="m", generation=4)
    assert commit_error(reply) == ErrorCode.ILLEGAL_GENERATION
    assert not coordinator.log.batches


def test_a_rebalance_does_not_keep_members_from_committing() -> None:
    coordinator = Coordinator()
    member_id, joined = coordinator.new_member("g")
    coordinator.advance(coordinator.config.initial_rebalance_delay_ms * 2)
    assert coordinator.groups["g"].state.value == "CompletingRebalance"
    generation = joined.response.generation_id
    reply = coordinator.commit_in_transaction("g", {P0: 1}, member_id=member_id, generation=generation)
    assert commit_error(reply) == ErrorCode.NONE


def test_metadata_that_is_too_large_is_refused_for_its_partition() -> None:
    coordinator = Coordinator(offset_metadata_size_max=3)
    reply = coordinator.commit_in_transaction("g", {P0: 1}, metadata="four")
    assert commit_error(reply) == ErrorCode.OFFSET_METADATA_TOO_LARGE
    assert not coordinator.log.batches


# -- what else goes on ----------------------------------------------------------------------------------------
def test_what_is_pending_keeps_offsets_and_group_from_expiring() -> None:
    coordinator = Coordinator(offsets_retention_ms=1_000, offsets_retention_check_interval_ms=100)
    coordinator.commit("g", {P0: 1})
    coordinator.commit_in_transaction("g", {P0: 2})
    coordinator.advance(5_000)
    assert offset_of(coordinator.fetch("g", P0)) == 1
    coordinator.end_transaction(commit=False)
    coordinator.advance(5_000)
    assert offset_of(coordinator.fetch("g", P0)) == -1
    assert not coordinator.groups


def test_records_of_a_transaction_have_no_topic_id() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 2}, topic_id=b"i" * 16)
    [((key, value), _)] = coordinator.log.batches[-1].records
    record = decode_record(key, value)
    assert isinstance(record, OffsetCommit)
    assert record.committed is not None
    assert record.committed.topic_id == ZERO_UUID


@pytest.mark.parametrize("restarted", [False, True])
def test_deleting_takes_what_is_pending_along(restarted: bool) -> None:
    for delete in (
        lambda coordinator: coordinator.delete_group("g"),
        lambda coordinator: coordinator.delete_offsets("g", P0),
        lambda coordinator: coordinator.call(
            None, lambda code: code, lambda machine, out, _: machine.offsets.forget_topic(out, "t", b"i" * 16)
        ),
    ):
        coordinator = Coordinator()
        coordinator.commit_in_transaction("g", {P0: 2}, topic_id=b"i" * 16)
        delete(coordinator)
        if restarted:
            coordinator.restart()
        coordinator.end_transaction(commit=True)
        assert offset_of(coordinator.fetch("g", P0)) == -1
        assert not coordinator.groups


# -- the log ----------------------------------------------------------------------------------------
def test_answers_wait_until_their_batch_is_durable_and_so_do_reads() -> None:
    coordinator = Coordinator(MemoryLog())
    commit = coordinator.commit_in_transaction("g", {P0: 7})
    assert not commit.done
    coordinator.log.sync()
    assert commit.done
    marker = coordinator.end_transaction(commit=True)
    fetch = coordinator.fetch("g", P0)
    other = coordinator.fetch("other", P0)
    assert (marker.done, fetch.done, other.done) == (False, False, True)
    coordinator.log.sync()
    assert marker.response == ErrorCode.NONE
    assert offset_of(fetch) == 7


def test_it_goes_behind_what_was_written_in_the_same_turn() -> None:
    coordinator = Coordinator()
    coordinator.scheduler.turn = lambda: None  # type: ignore[method-assign]
    coordinator.commit("g", {P0: 1})
    coordinator.commit_in_transaction("g", {P0: 2})
    coordinator.end_transaction(commit=True)
    coordinator.commit("g", {P0: 3})
    assert [(batch.producer_id, batch.commit) for batch in coordinator.log.batches] == [
        (-1, None),
        (1, None),
        (1, True),
    ]
    assert coordinator.groups["g"].offsets["t"][0].offset == 3


def test_a_log_without_room_refuses_and_changes_nothing() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 1})
    coordinator.log.full = True
    assert coordinator.commit_in_transaction("g", {P0: 2}).response == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert coordinator.end_transaction(commit=True).response == ErrorCode.COORDINATOR_NOT_AVAILABLE
    plain = coordinator.commit("g", {("t", 1): 3})
    coordinator.log.full = False
    assert coordinator.commit_in_transaction("g", {P0: 2}).response != ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert plain.done, "what waited for room went before it"
    coordinator.advance(int(FULL_RETRY_S * 2000))
    coordinator.end_transaction(commit=True)
    assert offset_of(coordinator.fetch("g", P0)) == 2


def test_a_fenced_producer_or_coordinator_is_told_so_and_changes_nothing() -> None:
    coordinator = Coordinator()
    coordinator.commit_in_transaction("g", {P0: 1}, epoch=5)
    assert coordinator.commit_in_transaction("g", {P0: 2}, epoch=4).response == ErrorCode.INVALID_PRODUCER_EPOCH
    assert coordinator.end_transaction(commit=True, epoch=4).response == ErrorCode.INVALID_PRODUCER_EPOCH
    assert offset_of(coordinator.fetch("g", P0)) == -1
    coordinator.end_transaction(commit=True, epoch=6)
    assert offset_of(coordinator.fetch("g", P0)) == 1


def test_a_log_that_fails_refuses_what_is_pending() -> None:
    coordinator = Coordinator(MemoryLog())
    commit = coordinator.commit_in_transaction("g", {P0: 1})
    marker = coordinator.end_transaction(commit=True)
    coordinator.log.fail()
    assert (commit.response, marker.response) == (ErrorCode.NOT_COORDINATOR, ErrorCode.NOT_COORDINATOR)
    assert coordinator.end_transaction(commit=True).response == ErrorCode.NOT_COORDINATOR
    coordinator.restart()
    coordinator.log.failed = True
    assert coordinator.commit_in_transaction("g", {P0: 1}).response == ErrorCode.NOT_COORDINATOR
    assert len(coordinator.failures) == 2


def test_markers_wait_for_loading() -> None:
    coordinator = Coordinator(load=False)
    assert coordinator.end_transaction(commit=True).response == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
