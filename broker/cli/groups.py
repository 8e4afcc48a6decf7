"""`tailrace groups`: list, describe."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.errors import CommandError
from broker.cli.output import Json, show
from broker.cli.targets import DEFAULT_BOOTSTRAP, Bootstrap, GroupId

if TYPE_CHECKING:
    from broker.cli.client import Client
    from broker.settings import Address

app = typer.Typer(name="groups", help="List and describe consumer groups.", no_args_is_help=True)

_GROUP_KEY_TYPE = 0
_OFFSET_FETCH_BY_NAME = 9
"""The last version of OffsetFetch that names topics; later ones want ids."""


@app.command("list")
def list_groups(bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, json: Json = False) -> None:
    """List the consumer groups of the cluster."""
    from broker.cli.client import Client, check
    from broker.settings import Address
    from protocol.messages.list_groups import ListGroupsRequest

    rows = []
    with Client(bootstrap) as client:
        for broker in client.metadata([]).brokers:
            response = client.send(ListGroupsRequest(), Address(broker.host, broker.port))
            check(response.error_code, "cannot list groups")
            rows += [(group.group_id, group.group_state, group.protocol_type) for group in response.groups]
    show(("group", "state", "protocol_type"), sorted(rows), json)


@app.command()
def describe(
    group: GroupId,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    members: Annotated[bool, typer.Option("--members", help="Show its members instead of its offsets.")] = False,
    json: Json = False,
) -> None:
    """Show a group's offsets and lag, or its members."""
    from broker.cli.client import Client

    with Client(bootstrap) as client:
        coordinator = _coordinator(client, group)
        state, described, assigned = _describe(client, coordinator, group)
        if members:
            rows: list[tuple[Any, ...]] = [
                (
                    member.member_id,
                    member.client_id,
                    member.client_host,
                    [f"{topic}:{index}" for topic, index in assigned[member.member_id]],
                )
                for member in described
            ]
            show(("member", "client_id", "host", "partitions"), rows, json)
            return
        committed = _committed_offsets(client, coordinator, group)
        if state == "Dead" and not committed:
            raise CommandError(f"no group {group}; `tailrace groups list` shows what there is")
        owners = {partition: member for member, partitions in assigned.items() for partition in partitions}
        columns = ("topic", "partition", "committed_offset", "end_offset", "lag", "member")
        show(columns, _offset_rows(client, committed, owners), json)


def _describe(
    client: Client, coordinator: Address, group: str
) -> tuple[str, list[Any], dict[str, list[tuple[str, int]]]]:
    """State, members, and the (topic, partition) pairs of each; of a group of the classic or of the new protocol."""
    from broker.cli.client import check
    from protocol.errors import ErrorCode
    from protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
    from protocol.messages.describe_groups import DescribeGroupsRequest

    classic = client.send(DescribeGroupsRequest(groups=[group]), coordinator).groups[0]
    if classic.error_code == ErrorCode.GROUP_ID_NOT_FOUND:
        found = client.send(ConsumerGroupDescribeRequest(group_ids=[group]), coordinator).groups[0]
        if found.error_code == ErrorCode.NONE:
            assigned = {
                member.member_id: [
                    (topic.topic_name, index)
                    for topic in member.assignment.topic_partitions
                    for index in topic.partitions
                ]
                for member in found.members
            }
            return found.group_state, found.members, assigned
    check(classic.error_code, f"cannot describe group {group}", classic.error_message)
    assigned = {member.member_id: parse_assignment(member.member_assignment) for member in classic.members}
    return classic.group_state, classic.members, assigned


def parse_assignment(data: bytes) -> list[tuple[str, int]]:
    """(topic, partition) pairs of a ConsumerProtocolAssignment; none of another or a damaged assignment."""
    partitions = []
    try:
        (topic_count,) = struct.unpack_from(">i", data, 2)
        position = 6
        for _ in range(topic_count):
            (size,) = struct.unpack_from(">h", data, position)
            topic = bytes(data[position + 2 : position + 2 + size]).decode()
            position += 2 + size
            (count,) = struct.unpack_from(">i", data, position)
            indexes = struct.unpack_from(f">{count}i", data, position + 4)
            position += 4 + 4 * count
            partitions += [(topic, index) for index in indexes]
    except (struct.error, UnicodeDecodeError):
        return []
    return partitions


def _coordinator(client: Client, group: str) -> Address:
    from broker.cli.client import check
    from broker.settings import Address
    from protocol.messages.find_coordinator import FindCoordinatorRequest

    request = FindCoordinatorRequest(key=group, key_type=_GROUP_KEY_TYPE, coordinator_keys=[group])
    response = client.send(request)
    found = response.coordinators[0] if response.coordinators else response
    check(found.error_code, f"no coordinator for group {group}", found.error_message)
    return Address(found.host, found.port)


def _committed_offsets(client: Client, coordinator: Address, group: str) -> dict[tuple[str, int], int]:
    from broker.cli.client import check
    from protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup

    request = OffsetFetchRequest(
        group_id=group, topics=None, groups=[OffsetFetchRequestGroup(group_id=group, topics=None)]
    )
    response = client.send(request, coordinator, version_max=_OFFSET_FETCH_BY_NAME)
    found = response.groups[0] if response.groups else response
    check(found.error_code, f"cannot fetch the offsets of group {group}")
    return {
        (topic.name, partition.partition_index): partition.committed_offset
        for topic in found.topics
        for partition in topic.partitions
        if partition.committed_offset >= 0
    }


def _offset_rows(
    client: Client, committed: dict[tuple[str, int], int], owners: dict[tuple[str, int], str]
) -> list[tuple[Any, ...]]:
    from broker.cli.offsets import LATEST, list_offsets

    partitions = sorted(committed.keys() | owners.keys())
    wanted: dict[str, list[int]] = {}
    for topic, index in partitions:
        wanted.setdefault(topic, []).append(index)
    ends = list_offsets(client, client.metadata(list(wanted)), wanted, LATEST) if wanted else {}
    rows = []
    for partition in partitions:
        offset, end = committed.get(partition), ends.get(partition)
        lag = max(end - offset, 0) if offset is not None and end is not None else None
        rows.append((*partition, offset, end, lag, owners.get(partition)))
    return rows
