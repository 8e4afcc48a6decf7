"""The group APIs from request bytes to response bytes, in every version that is advertised."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from broker.cluster.errors import AdminError
from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.shard import Shard
from broker.handlers import (
    delete_groups,
    describe_groups,
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    list_groups,
    offset_commit,
    offset_delete,
    offset_fetch,
    sync_group,
)
from protocol.errors import ErrorCode
from protocol.messages.join_group import JoinGroupRequestProtocol
from protocol.messages.leave_group import MemberIdentity
from protocol.messages.offset_commit import OffsetCommitRequestPartition, OffsetCommitRequestTopic
from protocol.messages.offset_delete import OffsetDeleteRequestPartition, OffsetDeleteRequestTopic
from protocol.messages.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from protocol.messages.sync_group import SyncGroupRequestAssignment
from protocol.records import Record, build_batch
from s3stream.catalog.api import TopicInfo
from tests.broker.coordinator.harness import subscription
from tests.broker.handlers_groups.node import GroupNode, group_node

UNKNOWN_ID = b"\7" * 16


def versions(handler: Any) -> Any:
    return pytest.mark.parametrize("version", range(handler.MIN_VERSION, handler.MAX_VERSION + 1))


async def commit(
    node: GroupNode,
    version: int,
    *partitions: int,
    name: str = "t",
    topic_id: bytes | None = None,
    group_id: str = "g",
    offset: int | None = None,
    **fields: Any,
) -> list[int]:
    """Error codes by partition; each commits ten times its index, or `offset`."""
    if version >= 10 and topic_id is None:
        info = node.image.topic(name)
        topic_id = info.topic_id.bytes if info is not None else UNKNOWN_ID
    topic = OffsetCommitRequestTopic(
        name=name if version < 10 else "",
        topic_id=topic_id if version >= 10 and topic_id else bytes(16),
        partitions=[
            OffsetCommitRequestPartition(
                partition_index=index,
                committed_offset=index * 10 if offset is None else offset,
                committed_metadata="m",
            )
            for index in partitions
        ],
    )
    response = await node.ask(offset_commit, version, group_id=group_id, topics=[topic], **fields)
    codes = {each.partition_index: each.error_code for topic in response.topics for each in topic.partitions}
    return [codes[index] for index in partitions]


async def join(node: GroupNode, group_id: str = "g", version: int = 3, **fields: Any) -> Any:
    return await node.ask(
        join_group,
        version,
        group_id=group_id,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=30_000 if version else -1,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=subscription("t"))],
        **fields,
    )


# -- FindCoordinator ---------------------------------------------------------------------------------------------------
@versions(find_coordinator)
async def test_the_first_search_creates_the_offsets_topic(version: int) -> None:
    async with group_node(coordinating=False) as node:
        fields: dict[str, Any] = {"key": "g"} if version < 4 else {"coordinator_keys": ["g", "h"]}
        response = await node.ask(find_coordinator, version, **fields)
        found = [response] if version < 4 else response.coordinators
        assert [(each.error_code, each.node_id, each.host, each.port) for each in found] == [
            (ErrorCode.NONE, 1, "host1", 9092)
        ] * len(found)
        assert len(found) == (1 if version < 4 else 2)
        assert node.creations == 1
        assert (await commit(node, 9, 1)) == [ErrorCode.NONE]


async def test_a_coordinator_that_cannot_be_created_is_not_available() -> None:
    async with group_node(coordinating=False) as node:
        node.creation_error = AdminError(ErrorCode.REQUEST_TIMED_OUT)
        response = await node.ask(find_coordinator, 4, coordinator_keys=["g"])
        assert response.coordinators[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_unknown_key_types_are_invalid() -> None:
    async with group_node() as node:
        response = await node.ask(find_coordinator, 6, key_type=2, coordinator_keys=["x"])
        assert response.coordinators[0].error_code == ErrorCode.INVALID_REQUEST


# -- OffsetCommit, OffsetFetch, OffsetDelete ---------------------------------------------------------------------------
@versions(offset_commit)
async def test_partitions_that_do_not_exist_do_not_stop_the_others(version: int) -> None:
    async with group_node() as node:
        assert await commit(node, version, 1, 2) == [ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        unknown = ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert await commit(node, version, 0, name="nowhere") == [unknown]


@versions(offset_commit)
async def test_an_error_of_the_group_is_told_for_each_partition(version: int) -> None:
    async with group_node() as node:
        codes = await commit(node, version, 0, 1, 5, member_id="m", generation_id_or_member_epoch=4)
        expected = ErrorCode.GROUP_ID_NOT_FOUND if version >= 9 else ErrorCode.ILLEGAL_GENERATION
        assert codes == [expected, expected, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


@versions(offset_fetch)
async def test_committed_offsets_come_back(version: int) -> None:
    async with group_node() as node:
        await commit(node, 9, 1)
        info = node.image.topic("t")
        assert info is not None
        if version < 8:
            topics = [OffsetFetchRequestTopic(name="t", partition_indexes=[0, 1])]
            response = await node.ask(offset_fetch, version, group_id="g", topics=topics)
            answered = response
        else:
            asked = OffsetFetchRequestTopics(
                name="t" if version < 10 else "",
                topic_id=info.topic_id.bytes if version >= 10 else bytes(16),
                partition_indexes=[0, 1],
            )
            groups = [OffsetFetchRequestGroup(group_id=each, topics=[asked]) for each in ("g", "other")]
            response = await node.ask(offset_fetch, version, groups=groups)
            answered, other = response.groups
            assert [each.committed_offset for each in other.topics[0].partitions] == [-1, -1]
        assert answered.error_code == ErrorCode.NONE
        assert [(each.committed_offset, each.metadata) for each in answered.topics[0].partitions] == [
            (-1, ""),
            (10, "m"),
        ]


@pytest.mark.parametrize("version", range(2, 11))
async def test_null_topics_ask_for_all(version: int) -> None:
    async with group_node() as node:
        await commit(node, 9, 1)
        info = node.image.topic("t")
        assert info is not None
        if version < 8:
            answered = await node.ask(offset_fetch, version, group_id="g", topics=None)
        else:
            groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
            answered = (await node.ask(offset_fetch, version, groups=groups)).groups[0]
        (topic,) = answered.topics
        assert (topic.topic_id == info.topic_id.bytes) if version >= 10 else (topic.name == "t")
        assert [(each.partition_index, each.committed_offset) for each in topic.partitions] == [(1, 10)]


async def test_an_unknown_topic_id_is_an_error_of_its_partitions() -> None:
    async with group_node() as node:
        asked = OffsetFetchRequestTopics(topic_id=UNKNOWN_ID, partition_indexes=[0])
        group = OffsetFetchRequestGroup(group_id="g", topics=[asked])
        response = await node.ask(offset_fetch, 10, groups=[group])
        (topic,) = response.groups[0].topics
        assert (topic.topic_id, topic.partitions[0].error_code) == (UNKNOWN_ID, ErrorCode.UNKNOWN_TOPIC_ID)


@pytest.mark.parametrize("version", [1, 7, 9])
async def test_a_fetch_from_the_wrong_broker_is_told_so(version: int) -> None:
    async with group_node(coordinating=False) as node:
        if version < 8:
            topics = [OffsetFetchRequestTopic(name="t", partition_indexes=[0])]
            response = await node.ask(offset_fetch, version, group_id="g", topics=topics)
        else:
            groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
            response = (await node.ask(offset_fetch, version, groups=groups)).groups[0]
        code = response.topics[0].partitions[0].error_code if version == 1 else response.error_code
        assert code == ErrorCode.NOT_COORDINATOR


async def test_offsets_are_deleted_partition_by_partition() -> None:
    async with group_node() as node:
        await commit(node, 9, 0, 1)
        topics = [
            OffsetDeleteRequestTopic(
                name="t", partitions=[OffsetDeleteRequestPartition(partition_index=index) for index in (1, 9)]
            )
        ]
        response = await node.ask(offset_delete, 0, group_id="g", topics=topics)
        codes = {each.partition_index: each.error_code for each in response.topics[0].partitions}
        assert codes == {1: ErrorCode.NONE, 9: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
        left = (await node.ask(offset_fetch, 9, groups=groups)).groups[0]
        assert [each.partition_index for topic in left.topics for each in topic.partitions] == [0]


# -- membership --------------------------------------------------------------------------------------------------------
@versions(join_group)
async def test_a_member_joins(version: int) -> None:
    async with group_node() as node:
        response = await join(node, version=version)
        if version >= 4:
            assert response.error_code == ErrorCode.MEMBER_ID_REQUIRED
            response = await join(node, version=version, member_id=response.member_id)
        assert (response.error_code, response.generation_id, response.protocol_name) == (ErrorCode.NONE, 1, "range")
        assert response.leader == response.member_id
        assert [each.metadata for each in response.members] == [subscription("t")]
        assert response.protocol_type == ("consumer" if version >= 7 else None)


@versions(sync_group)
async def test_a_leader_syncs_heartbeats_and_leaves(version: int) -> None:
    async with group_node() as node:
        member_id = (await join(node)).member_id
        protocol = {"protocol_type": "consumer", "protocol_name": "range"} if version >= 5 else {}
        synced = await node.ask(
            sync_group,
            version,
            group_id="g",
            generation_id=1,
            member_id=member_id,
            assignments=[SyncGroupRequestAssignment(member_id=member_id, assignment=b"mine")],
            **protocol,
        )
        assert (synced.error_code, synced.assignment) == (ErrorCode.NONE, b"mine")
        beat = await node.ask(heartbeat, min(version, 4), group_id="g", generation_id=1, member_id=member_id)
        assert beat.error_code == ErrorCode.NONE
        leaving: dict[str, Any] = {"member_id": member_id}
        if version >= 3:
            leaving = {"members": [MemberIdentity(member_id=member_id)]}
        left = await node.ask(leave_group, version, group_id="g", **leaving)
        assert left.error_code == ErrorCode.NONE
        left = await node.ask(leave_group, version, group_id="g", **leaving)
        code = left.members[0].error_code if version >= 3 else left.error_code
        assert code == ErrorCode.UNKNOWN_MEMBER_ID


@versions(join_group)
async def test_a_refused_join_names_no_protocol(version: int) -> None:
    async with group_node() as node:
        response = await join(node, version=version, member_id="stranger")
        assert response.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert response.protocol_name == (None if version >= 7 else "")


async def test_since_version_5_a_sync_names_its_protocol() -> None:
    async with group_node() as node:
        member_id = (await join(node)).member_id
        response = await node.ask(sync_group, 5, group_id="g", generation_id=1, member_id=member_id)
        assert response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


async def test_the_empty_group_id_is_for_offsets_only() -> None:
    async with group_node() as node:
        assert await commit(node, 9, 0, group_id="") == [ErrorCode.NONE]
        for response in (
            await join(node, group_id=""),
            await node.ask(sync_group, 3, group_id="", generation_id=1, member_id="m"),
            await node.ask(heartbeat, 4, group_id="", generation_id=1, member_id="m"),
            await node.ask(leave_group, 5, group_id=""),
            await node.ask(offset_delete, 0, group_id=""),
        ):
            assert response.error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("fields", [{"group_id": "g" * 40_000}, {"group_instance_id": "i" * 32_760}])
async def test_a_join_with_names_that_no_record_can_hold_is_refused(fields: dict[str, str]) -> None:
    async with group_node() as node:
        response = await join(node, version=9, **fields)
        assert response.error_code in (ErrorCode.INVALID_GROUP_ID, ErrorCode.INVALID_REQUEST)
        assert (await node.ask(list_groups, 5)).groups == []


async def test_a_commit_of_a_group_whose_id_no_record_can_hold_is_refused() -> None:
    async with group_node() as node:
        assert await commit(node, 9, 0, group_id="g" * 40_000) == [ErrorCode.INVALID_GROUP_ID]


# -- looking at groups -------------------------------------------------------------------------------------------------
@versions(describe_groups)
async def test_groups_are_described(version: int) -> None:
    async with group_node() as node:
        member_id = (await join(node)).member_id
        await node.ask(sync_group, 3, group_id="g", generation_id=1, member_id=member_id)
        fields = {"include_authorized_operations": True} if version >= 3 else {}
        response = await node.ask(describe_groups, version, groups=["g", "nobody"], **fields)
        known, unknown = response.groups
        assert (known.group_state, known.protocol_type, known.protocol_data) == ("Stable", "consumer", "range")
        (member,) = known.members
        assert (member.member_id, member.client_id, member.client_host) == (member_id, "test", "/127.0.0.1")
        assert known.authorized_operations == (3400 if version >= 3 else -(2**31))
        assert unknown.group_state == "Dead"
        assert unknown.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else ErrorCode.NONE)


@versions(list_groups)
async def test_groups_are_listed_by_state_and_type(version: int) -> None:
    async with group_node() as node:
        await join(node, "joining")
        for group_id in ("simple1", "simple2", "simple3"):
            await commit(node, 9, 0, group_id=group_id)

        async def listed(**filters: Any) -> set[str]:
            return {each.group_id for each in (await node.ask(list_groups, version, **filters)).groups}

        assert await listed() == {"joining", "simple1", "simple2", "simple3"}
        if version >= 4:
            assert await listed(states_filter=["completingrebalance"]) == {"joining"}
            assert await listed(states_filter=["Stable"]) == set()
        if version >= 5:
            assert len(await listed(types_filter=["Classic"])) == 4
            assert await listed(types_filter=["consumer"]) == set()


@versions(delete_groups)
async def test_groups_are_deleted(version: int) -> None:
    async with group_node() as node:
        await commit(node, 9, 0)
        await join(node, "busy")
        response = await node.ask(delete_groups, version, groups_names=["g", "busy", "nobody"])
        codes = {each.group_id: each.error_code for each in response.results}
        assert codes == {
            "g": ErrorCode.NONE,
            "busy": ErrorCode.NON_EMPTY_GROUP,
            "nobody": ErrorCode.GROUP_ID_NOT_FOUND,
        }


# -- the service -------------------------------------------------------------------------------------------------------
async def test_offsets_survive_the_coordinator_in_kafkas_format() -> None:
    async with group_node() as node:
        for count in range(30):
            await commit(node, 9, 0, 1, group_id=f"g{count}")
        member_id = (await join(node)).member_id
        await node.ask(sync_group, 3, group_id="g", generation_id=1, member_id=member_id)
        await node.groups.stop()
        await node.groups.start()
        await node.groups.wait_loaded()
        beat = await node.ask(heartbeat, 4, group_id="g", generation_id=1, member_id=member_id)
        assert beat.error_code == ErrorCode.NONE
        for count in range(30):
            groups = [OffsetFetchRequestGroup(group_id=f"g{count}", topics=None)]
            found = (await node.ask(offset_fetch, 9, groups=groups)).groups[0]
            assert [each.committed_offset for each in found.topics[0].partitions] == [0, 10]


async def test_requests_wait_for_a_coordinator_that_loads_and_have_their_turn_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some clients tell their application of COORDINATOR_LOAD_IN_PROGRESS after a fraction of a second."""
    monkeypatch.setattr("broker.coordinator.hosting.SUBMITTED_PER_TURN", 2)
    async with group_node() as node:
        may_load = hold_loads(monkeypatch)
        index = node.groups.partition_of("g")
        partition = node.partitions.get(CONSUMER_OFFSETS, index)
        assert partition is not None
        node.groups._host._opened(partition)
        commits = [asyncio.ensure_future(commit(node, 9, 1, offset=offset)) for offset in range(5)]
        await settle()
        assert not any(each.done() for each in commits)
        may_load.set()
        assert await asyncio.gather(*commits) == [[ErrorCode.NONE]] * 5
        assert await committed(node) == 4


async def test_requests_wait_for_a_partition_that_is_led_here_and_not_open_yet() -> None:
    async with group_node() as node:
        index = node.groups.partition_of("g")
        partition = node.partitions.get(CONSUMER_OFFSETS, index)
        assert partition is not None
        node.groups._host._drop(index)
        waiting = asyncio.ensure_future(commit(node, 9, 1))
        await settle()
        assert not waiting.done()
        node.groups._host._opened(partition)
        assert await waiting == [ErrorCode.NONE]


async def test_a_request_that_waits_too_long_for_its_coordinator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.coordinator.parking.PARKED_S", 0.01)
    async with group_node() as node:
        node.groups._host._drop(node.groups.partition_of("g"))
        assert await commit(node, 9, 1) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
        assert (await node.ask(heartbeat, 4, group_id="g", member_id="m")).error_code == ErrorCode.NONE


async def test_no_more_requests_wait_for_one_coordinator_than_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.coordinator.parking.PARKED_MAX", 1)
    async with group_node() as node:
        node.groups._host._drop(node.groups.partition_of("g"))
        waiting = asyncio.ensure_future(commit(node, 9, 1))
        await settle()
        assert await commit(node, 9, 1) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
        await node.groups.stop()
        assert await waiting == [ErrorCode.NOT_COORDINATOR]


async def test_what_waits_for_a_partition_that_goes_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with group_node() as node:
        hold_loads(monkeypatch)
        partition = node.partitions.get(CONSUMER_OFFSETS, node.groups.partition_of("g"))
        assert partition is not None
        node.groups._host._opened(partition)
        waiting = asyncio.ensure_future(commit(node, 9, 1))
        await settle()
        node.groups._host._closed(partition)
        assert await waiting == [ErrorCode.NOT_COORDINATOR]


async def test_a_broker_that_hands_its_partition_over_sends_whoever_waits_on_at_once() -> None:
    """It is closed first, and only then led by another; what is asked in between must not wait for its return."""
    async with group_node() as node:
        node.groups._host._drop(node.groups.partition_of("g"))
        waiting = asyncio.ensure_future(commit(node, 9, 1))
        await settle()
        assert not waiting.done()
        await node.learn(led_elsewhere(node))
        async with asyncio.timeout(1):
            assert await waiting == [ErrorCode.NOT_COORDINATOR]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def led_elsewhere(node: GroupNode) -> dict[UUID, TopicInfo | None]:
    info = node.image.topic(CONSUMER_OFFSETS)
    assert info is not None
    return {info.topic_id: replace(info, partitions=tuple(replace(each, leader=2) for each in info.partitions))}


def hold_loads(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Shards that load from now on wait for the event."""
    may_load, load = asyncio.Event(), Shard.load

    async def held(shard: Shard[Any]) -> None:
        await may_load.wait()
        await load(shard)

    monkeypatch.setattr(Shard, "load", held)
    return may_load


async def committed(node: GroupNode) -> int:
    groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
    found = (await node.ask(offset_fetch, 9, groups=groups)).groups[0]
    return int(found.topics[0].partitions[0].committed_offset)


async def test_losing_the_partition_refuses_and_getting_it_back_loads() -> None:
    async with group_node() as node:
        await commit(node, 9, 1)
        await node.learn(led_elsewhere(node))
        assert await commit(node, 9, 1) == [ErrorCode.NOT_COORDINATOR]


async def test_a_log_that_failed_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.coordinator.shard.FULL_MAX_S", 0.0)
    async with group_node() as node:
        await commit(node, 9, 1)
        index = node.groups.partition_of("g")
        partition = node.partitions.get(CONSUMER_OFFSETS, index)
        info = node.image.topic(CONSUMER_OFFSETS)
        assert partition is not None
        assert info is not None
        stream = node.log(info, index)
        stream.full = True
        assert await commit(node, 9, 0) == [ErrorCode.NOT_COORDINATOR]
        stream.full = False
        await node.groups.wait_loaded()
        groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
        found = (await node.ask(offset_fetch, 9, groups=groups)).groups[0]
        assert [each.partition_index for each in found.topics[0].partitions] == [1]


async def test_offsets_of_a_deleted_topic_are_forgotten() -> None:
    async with group_node() as node:
        await commit(node, 9, 1)
        info = node.image.topic("t")
        assert info is not None
        await node.learn({info.topic_id: None})
        groups = [OffsetFetchRequestGroup(group_id="g", topics=None)]
        assert (await node.ask(offset_fetch, 9, groups=groups)).groups[0].topics == []


async def test_a_log_that_cannot_be_understood_takes_only_its_own_groups_out() -> None:
    async with group_node() as node:
        spoilt = node.groups.partition_of("g")
        kept = next(name for name in ("a", "b", "c", "d", "e") if node.groups.partition_of(name) != spoilt)
        await commit(node, 9, 0, group_id=kept)
        partition = node.partitions.get(CONSUMER_OFFSETS, spoilt)
        assert partition is not None
        partition.append_internal(build_batch([Record(0, 1, b"", b"what is this")]))
        node.storage.flush()
        node.groups._host._opened(partition)
        await node.groups.wait_loaded()
        assert await commit(node, 9, 0) == [ErrorCode.NOT_COORDINATOR]
        assert [each.group_id for each in (await node.ask(list_groups, 5)).groups] == [kept]
