"""What a shard promises whatever its state machine: durability before answers, batching, failure, loading."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.coordinator.log import LogBatch, LogUnavailable
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Gathered, Reply
from broker.coordinator.shard import ShardState
from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import Coordinator, commit_error, drive, offset_of


def test_a_commit_is_answered_when_it_is_durable_and_not_before() -> None:
    coordinator = Coordinator(MemoryLog())
    reply = coordinator.commit("g", {("t", 0): 1})
    assert not reply.done
    coordinator.log.sync()
    assert commit_error(reply) == ErrorCode.NONE


def test_a_fetch_never_shows_an_offset_that_is_not_durable() -> None:
    coordinator = Coordinator(MemoryLog())
    coordinator.commit("g", {("t", 0): 1})
    coordinator.log.sync()
    coordinator.commit("g", {("t", 0): 2})
    fetched = coordinator.fetch("g", ("t", 0))
    assert not fetched.done
    coordinator.log.sync()
    assert offset_of(fetched) == 2


def test_groups_do_not_wait_for_each_other() -> None:
    coordinator = Coordinator(MemoryLog())
    coordinator.commit("other", {("t", 0): 1})
    assert offset_of(coordinator.fetch("g", ("t", 0))) == -1


def test_a_refusal_that_follows_from_what_is_not_durable_waits_too() -> None:
    coordinator = Coordinator(MemoryLog())
    coordinator.commit("g", {("t", 0): 1})
    coordinator.log.sync()
    coordinator.delete_group("g")
    again = coordinator.delete_group("g")
    assert not again.done
    coordinator.log.sync()
    assert again.response.error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_an_answer_about_all_groups_waits_for_everything() -> None:
    coordinator = Coordinator(MemoryLog())
    coordinator.commit("g", {("t", 0): 1})
    listed = coordinator.call(
        None, lambda code: code, lambda machine, out, reply: machine.list_groups(out, reply, (), ())
    )
    assert not listed.done
    coordinator.log.sync()
    assert [group.group_id for group in listed.response] == ["g"]


def test_the_commits_of_one_turn_leave_as_one_batch() -> None:
    coordinator = Coordinator()
    turn, coordinator.scheduler.turn = coordinator.scheduler.turn, lambda: None  # type: ignore[method-assign]
    replies = [coordinator.commit(f"g{index}", {("t", 0): index}) for index in range(100)]
    assert coordinator.log.append_count == 0
    turn()
    assert coordinator.log.append_count == 1
    assert all(reply.done for reply in replies)


def test_a_batch_is_bounded() -> None:
    coordinator = Coordinator()
    coordinator.shard._batch_size_max = 1000
    coordinator.commit("g", {("t", index): 1 for index in range(100)})
    sizes = len(coordinator.log.records) / coordinator.log.append_count
    assert coordinator.log.end_offset == 100
    assert 5 < sizes < 30


def test_a_log_that_fails_refuses_what_is_pending_and_reports_itself() -> None:
    coordinator = Coordinator(MemoryLog())
    joining = coordinator.join("other", version=3)
    coordinator.log.sync()
    pending = coordinator.commit("g", {("t", 0): 1})
    reading = coordinator.fetch("g", ("t", 0))
    coordinator.log.fail()
    assert commit_error(pending) == reading.response == ErrorCode.NOT_COORDINATOR
    assert joining.response.error_code == ErrorCode.NOT_COORDINATOR
    assert isinstance(coordinator.failures[0], LogUnavailable)
    assert commit_error(coordinator.commit("g", {("t", 0): 1})) == ErrorCode.NOT_COORDINATOR


def test_a_log_without_room_makes_replies_wait_and_loses_no_member() -> None:
    coordinator = Coordinator()
    member, *_ = coordinator.stable_group()
    coordinator.log.full = True
    commits = [coordinator.commit("g", {("t", 0): offset}, member_id=member, generation=1) for offset in (1, 2)]
    other = coordinator.commit("h", {("t", 0): 3})
    coordinator.advance(9_000)
    assert not any(reply.done for reply in (*commits, other))
    coordinator.log.full = False
    coordinator.advance(100)
    assert [commit_error(reply) for reply in (*commits, other)] == [ErrorCode.NONE] * 3
    assert coordinator.heartbeat("g", member, 1).response.error_code == ErrorCode.NONE
    coordinator.restart()
    assert [offset_of(coordinator.fetch(group, ("t", 0))) for group in ("g", "h")] == [2, 3]


def test_a_log_that_stays_without_room_ends_the_shard() -> None:
    coordinator = Coordinator()
    coordinator.log.full = True
    commit = coordinator.commit("g", {("t", 0): 1})
    coordinator.advance(11_000)
    assert commit.response is ErrorCode.NOT_COORDINATOR
    assert coordinator.shard.state is ShardState.CLOSED
    assert len(coordinator.failures) == 1


def test_batches_that_wait_for_room_stay_bounded_and_in_order() -> None:
    coordinator = Coordinator()
    coordinator.shard._batch_size_max = 200
    coordinator.log.full = True
    for offset in range(20):
        coordinator.commit("g", {("t", 0): offset})
    last = coordinator.fetch("g", ("t", 0))
    coordinator.log.full = False
    coordinator.advance(100)
    assert coordinator.log.append_count >= 5
    assert offset_of(last) == 19


def test_an_append_that_fails_leaves_nothing_in_the_state() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("t", 0): 1})
    coordinator.log.failed = True
    assert commit_error(coordinator.commit("g", {("t", 0): 2})) == ErrorCode.NOT_COORDINATOR
    assert coordinator.shard.state is ShardState.CLOSED
    coordinator.restart()
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 1


def test_requests_are_refused_while_the_log_is_loaded() -> None:
    coordinator = Coordinator(load=False)
    assert commit_error(coordinator.commit("g", {("t", 0): 1})) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    drive(coordinator.shard.load())
    assert commit_error(coordinator.commit("g", {("t", 0): 1})) == ErrorCode.NONE


def test_a_shard_that_was_closed_while_it_loaded_stays_closed() -> None:
    coordinator = Coordinator(load=False)
    work = coordinator.shard.load()
    coordinator.shard.close()
    drive(work)
    assert commit_error(coordinator.commit("g", {("t", 0): 1})) == ErrorCode.NOT_COORDINATOR


def test_loading_can_be_tried_again() -> None:
    class FlakyLog(MemoryLog):
        attempts = 0

        async def read_all(self) -> AsyncIterator[LogBatch]:
            self.attempts += 1
            async for batch in super().read_all():
                yield batch
            if self.attempts == 1:
                raise LogUnavailable("not yet")

    source = Coordinator()
    source.commit("g", {("t", 0): 7})
    coordinator = Coordinator(FlakyLog(source.log.batches, auto_sync=True), load=False)
    with pytest.raises(LogUnavailable):
        drive(coordinator.shard.load())
    drive(coordinator.shard.load())
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 7


def test_a_key_written_many_times_is_decoded_once() -> None:
    coordinator = Coordinator()
    for offset in range(1000):
        coordinator.commit("g", {("t", 0): offset})
    machine_type = type(coordinator.shard.machine)
    decoded = []
    original = machine_type.decode

    def counting(machine: object, key: bytes, value: bytes) -> object:
        decoded.append(key)
        return original(machine, key, value)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_type, "decode", counting)
        coordinator.restart()
    assert len(decoded) == 1
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 999


def test_gathered_replies_answer_together_and_in_order() -> None:
    parts = [Reply(lambda code: code) for _ in range(3)]
    parts[1].complete("b")
    gathered = Gathered(parts, "".join)
    parts[2].complete("c")
    assert not gathered.done
    parts[0].complete("a")
    assert gathered.response == "abc"
    assert Gathered([], list).response == []
