"""DescribeQuorum (55): for kafka-metadata-quorum; here it says how far the brokers have followed the metadata.

v0-v2. v1 adds when a replica fetched and caught up last; v2 the brokers' addresses and error messages (KIP-853).

There is no quorum: the metadata is in the catalog's database, and brokers follow its change sequence. So offsets are
sequence numbers of changes, the leader is the broker that clients take for the controller, with its broker epoch, and
alone votes; the other alive brokers are observers. One that does not answer has the offset -1. Only partition 0 of
__cluster_metadata exists.
"""

from __future__ import annotations

from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    Listener,
    Node,
    PartitionDataResponse,
    ReplicaState,
    TopicDataResponse,
)

API_KEY = ApiKey.DESCRIBE_QUORUM
MIN_VERSION = 0
MAX_VERSION = 2

_TOPIC = "__cluster_metadata"
_UNKNOWN = -1
_INT32_MAX = 2**31 - 1


async def handle(services: Services, ctx: RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse:
    asked = [(topic.topic_name, [each.partition_index for each in topic.partitions]) for topic in request.topics]
    if asked != [(_TOPIC, [0])]:
        return DescribeQuorumResponse(
            error_message=None,
            topics=[
                TopicDataResponse(topic_name=name, partitions=[_unknown(index) for index in indexes])
                for name, indexes in asked
            ],
        )
    described = await _describe(services)
    brokers = services.image.brokers()
    return DescribeQuorumResponse(
        error_message=None,
        topics=[TopicDataResponse(topic_name=_TOPIC, partitions=[described])],
        nodes=[
            Node(node_id=each.node_id, listeners=[Listener(name=ctx.listener, host=each.host, port=each.port)])
            for each in brokers
        ],
    )


async def _describe(services: Services) -> PartitionDataResponse:
    image = services.image
    leader_id = image.controller_id
    seqs = {node_id: each.metadata_seq for node_id, each in (await services.balancer.ask_for_loads(False)).items()}
    newest = max(image.seq, *seqs.values(), 0)
    seqs[leader_id] = newest
    now_ms = services.now_ms()
    replicas = {
        each.node_id: _replica(each.node_id, seqs.get(each.node_id), newest, now_ms) for each in image.brokers()
    }
    voter = replicas.pop(leader_id, None) or _replica(leader_id, newest, newest, now_ms)
    leader = image.broker(leader_id)
    return PartitionDataResponse(
        error_message=None,
        leader_id=leader_id,
        leader_epoch=min(leader.epoch, _INT32_MAX) if leader is not None else 0,
        high_watermark=newest,
        current_voters=[voter],
        observers=list(replicas.values()),
    )


def _replica(node_id: int, seq: int | None, newest: int, now_ms: int) -> ReplicaState:
    if seq is None:
        return ReplicaState(replica_id=node_id, log_end_offset=_UNKNOWN)
    caught_up_ms = now_ms if seq >= newest else _UNKNOWN
    return ReplicaState(
        replica_id=node_id, log_end_offset=seq, last_fetch_timestamp=now_ms, last_caught_up_timestamp=caught_up_ms
    )


def _unknown(index: int) -> PartitionDataResponse:
    return PartitionDataResponse(
        partition_index=index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, error_message=None
    )
