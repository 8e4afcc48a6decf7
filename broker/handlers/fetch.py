"""Fetch (1): records of partitions, whole batches, now or when there is enough.

v4-v18. v4 isolation level and aborted transactions; v5 log start offset; v7 incremental sessions (KIP-227); v9 current
leader epoch (KIP-320); v11 rack and preferred read replica (KIP-392); v12 flexible, last fetched epoch and diverging
epoch; v13 topic ids (KIP-516); v15 replica state; v16 node endpoints beside the current leader (KIP-951); v17 replica
directory id; v18 a follower's high watermark.

* A batch that is the first one found is returned whole, even over `max_bytes`; a response may begin before the fetch
  offset, and the consumer skips.
* The fetch waits until `min_bytes` are readable or `max_wait_ms` are over; errors are answered at once.
* Every reader is a consumer here: brokers do not replicate from each other, so `replica_id` has no effect.
* A consumer that says in which rack it is reads old records from a broker of that rack (`broker.replica_reads`); it is
  told so by a preferred read replica, and told in the same way when it is to read from the leader again.
* A read_committed fetch ends at the last stable offset and names the aborted transactions in what it returns, in the
  order in which they end; under read_uncommitted there is no such list (null).
* The records of a response are the buffers of the log cache themselves. Responses are smaller than asked for while
  other clients do not take theirs (`broker.fetch_memory`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from broker.fetch import Fetch, WaitingFetch
from broker.fetch_sessions import FetchContext, Fetched
from broker.leadership import current_leader
from broker.partition.log_view import READ_COMMITTED
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionData,
    SnapshotId,
)

API_KEY = ApiKey.FETCH
MIN_VERSION = 4
MAX_VERSION = 18

_TOPIC_IDS_SINCE = 13
_ENDPOINTS_SINCE = 16
_MOVED = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH)

# Shared by all answers that have nothing to say there; never changed.
_NO_DIVERGENCE = EpochEndOffset()
_NO_LEADER = LeaderIdAndEpoch()
_NO_SNAPSHOT = SnapshotId()


def handle(
    services: Services, ctx: RequestContext, request: FetchRequest
) -> FetchResponse | Deferred | Awaitable[FetchResponse]:
    context = services.fetch_sessions.begin(request, ctx.api_version >= _TOPIC_IDS_SINCE, services.now_ms())
    if context.error_code:
        return FetchResponse(error_code=context.error_code, throttle_time_ms=ctx.throttle_time_ms)
    fetch = Fetch(
        services,
        context.targets,
        services.fetch_memory.grant(min(request.max_bytes, services.config.fetch_max_bytes)),
        request.min_bytes,
        request.isolation_level,
    )
    near = services.replica_reads if request.rack_id else None
    if near is not None:
        near.attach(context.targets, request.rack_id)
    fetch.read()
    if near is not None:
        near.send_away(fetch, request.rack_id, ctx.connection_id)
    if fetch.cold:
        ctx.reserved_size = sum(max_size for _, max_size in fetch.cold)
        services.fetch_memory.charge(ctx.reserved_size)
        return _answer_cold(services, ctx, context, fetch)
    if request.max_wait_ms <= 0 or fetch.size >= fetch.min_size or fetch.answer_now or not fetch.targets:
        return _respond(services, ctx, context, fetch)
    return WaitingFetch(fetch, request.max_wait_ms, partial(_respond, services, ctx, context))


async def _answer_cold(services: Services, ctx: RequestContext, context: FetchContext, fetch: Fetch) -> FetchResponse:
    await fetch.read_cold()
    if services.replica_reads is not None:
        services.replica_reads.send_back(fetch)
    return _respond(services, ctx, context, fetch)


def _respond(services: Services, ctx: RequestContext, context: FetchContext, fetch: Fetch) -> FetchResponse:
    session_id, results = context.select(fetch.results, services.now_ms())
    response = FetchResponse(session_id=session_id, throttle_time_ms=ctx.throttle_time_ms)
    topics: dict[tuple[str, bytes], FetchableTopicResponse] = {}
    committed_only = fetch.isolation_level == READ_COMMITTED
    for result in results:
        target = result.target
        key = (target.topic, target.topic_id)
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = FetchableTopicResponse(topic=target.topic, topic_id=target.topic_id)
            response.responses.append(topic)
        found = result.found
        if (partition := target.partition) is not None and found is not None:
            partition.load.bytes_out += found.size
            partition.load.requests += 1
        data = PartitionData(
            partition_index=target.index,
            error_code=result.error_code,
            high_watermark=result.high_watermark,
            last_stable_offset=result.last_stable_offset,
            log_start_offset=result.log_start_offset,
            diverging_epoch=_NO_DIVERGENCE,
            current_leader=_NO_LEADER,
            snapshot_id=_NO_SNAPSHOT,
            aborted_transactions=_aborted(result) if committed_only else None,
            preferred_read_replica=result.preferred_read_replica,
            records=list(found.buffers) if found is not None else b"",
        )
        topic.partitions.append(data)
        if result.diverging is not None:
            epoch, end_offset = result.diverging
            data.diverging_epoch = EpochEndOffset(epoch=epoch, end_offset=end_offset)
        if result.error_code in _MOVED and ctx.api_version >= _ENDPOINTS_SINCE:
            _name_leader(services, response, data, result)
    return response


def _aborted(result: Fetched) -> list[AbortedTransaction]:
    return [
        AbortedTransaction(producer_id=producer_id, first_offset=first_offset)
        for producer_id, first_offset in result.aborted
    ]


def _name_leader(services: Services, response: FetchResponse, data: PartitionData, result: Fetched) -> None:
    topic = services.image.topic_by_id(result.target.topic_id)
    leader = current_leader(services.image, topic, result.target.index)
    if leader is None:
        return
    leader_epoch, broker = leader
    data.current_leader = LeaderIdAndEpoch(leader_id=broker.node_id, leader_epoch=leader_epoch)
    if all(each.node_id != broker.node_id for each in response.node_endpoints):
        response.node_endpoints.append(
            NodeEndpoint(node_id=broker.node_id, host=broker.host, port=broker.port, rack=broker.rack)
        )
