"""TxnOffsetCommit (28): a producer commits a group's offsets as part of its transaction.

v0-v5. v2 leader epochs (KIP-320); v3 flexible, and names the member whose offsets they are (KIP-447); v4 may answer
TRANSACTION_ABORTABLE; v5 adds the group's partition to the transaction by itself (KIP-890).

* Nothing of it is seen before the transaction commits; `require_stable` fetches wait for that.
* Unless the transaction is open in the group's partition its coordinator is asked first, as for records.
* A member of another generation is ILLEGAL_GENERATION, one that is not known UNKNOWN_MEMBER_ID, one whose instance
  somebody else has taken FENCED_INSTANCE_ID: the transaction is to be aborted.
* Errors of one topic or partition leave the others to be committed. A group's error is told for each partition.
* Before v2 clients do not expect COORDINATOR_LOAD_IN_PROGRESS and get COORDINATOR_NOT_AVAILABLE.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.group.records import NAME_LENGTH_MAX
from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from broker.verification import Transaction, Verdicts
from broker.verification.codes import Support, offset_commit_refusal, offset_commit_support
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

API_KEY = ApiKey.TXN_OFFSET_COMMIT
MIN_VERSION = 0
MAX_VERSION = 5

_LOAD_IN_PROGRESS_SINCE = 2
_NO_SEQUENCE = -1


def handle(
    services: Services, ctx: RequestContext, request: TxnOffsetCommitRequest
) -> TxnOffsetCommitResponse | Deferred:
    version = ctx.api_version
    if not request.group_id or len(request.group_id) > NAME_LENGTH_MAX:
        return _refusal(request, version, ErrorCode.INVALID_GROUP_ID)
    refused, topic_ids = _take_out_unknown(services, request)
    if not request.topics:
        return TxnOffsetCommitResponse(topics=refused)
    reply = Reply(partial(_refusal, request, version))
    _verify(services, request, topic_ids, reply, offset_commit_support(version))
    if refused:
        return Gathered([reply], partial(_merge, refused))
    settled: TxnOffsetCommitResponse | Deferred = reply.settled()
    return settled


def _verify(
    services: Services,
    request: TxnOffsetCommitRequest,
    topic_ids: Mapping[str, bytes],
    reply: Reply,
    support: Support,
) -> None:
    """Commit at once if the transaction is open in the group's partition, else when its coordinator has answered."""
    index = services.groups.partition_of(request.group_id)
    partition = services.partitions.get(CONSUMER_OFFSETS, index)
    producer_id, producer_epoch = request.producer_id, request.producer_epoch
    adds = support is Support.IMPLICIT_ADD
    if (
        partition is None  # the group's shard is not here either, and refuses
        or partition.transaction_ongoing(producer_id, producer_epoch)
        or not (adds or services.config.transaction_partition_verification_enable)
    ):
        _commit(services, request, topic_ids, reply, None)
        return
    guard = partition.begin_verification(producer_id, producer_epoch, _NO_SEQUENCE, adds)

    def verified(verdicts: Verdicts) -> None:
        code = verdicts[CONSUMER_OFFSETS, index]
        if code is not ErrorCode.NONE:
            reply.refuse(offset_commit_refusal(code, support))
        elif services.partitions.get(CONSUMER_OFFSETS, index) is not partition:
            # opened again meanwhile, or gone: the guard is of another partition
            reply.refuse(ErrorCode.NOT_COORDINATOR)
        else:
            _commit(services, request, topic_ids, reply, guard)

    transaction = Transaction(request.transactional_id, producer_id, producer_epoch, adds)
    services.verification.ask(transaction, [(CONSUMER_OFFSETS, index)], verified)


def _commit(
    services: Services,
    request: TxnOffsetCommitRequest,
    topic_ids: Mapping[str, bytes],
    reply: Reply,
    guard: object | None,
) -> None:
    services.groups.submit(
        request.group_id,
        reply,
        lambda machine, out: machine.transactional.commit(out, reply, request, topic_ids, guard),
    )


def _take_out_unknown(
    services: Services, request: TxnOffsetCommitRequest
) -> tuple[list[TxnOffsetCommitResponseTopic], dict[str, bytes]]:
    """Leave what exists in the request and answer the rest; the ids of topics that exist."""
    refused: list[TxnOffsetCommitResponseTopic] = []
    known: list[TxnOffsetCommitRequestTopic] = []
    topic_ids: dict[str, bytes] = {}
    for topic in request.topics:
        info = services.image.topic(topic.name)
        count = len(info.partitions) if info is not None else 0
        unknown = [each for each in topic.partitions if not 0 <= each.partition_index < count]
        if unknown:
            refused.append(
                TxnOffsetCommitResponseTopic(
                    name=topic.name,
                    partitions=[
                        TxnOffsetCommitResponsePartition(
                            partition_index=each.partition_index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                        )
                        for each in unknown
                    ],
                )
            )
            topic.partitions = [each for each in topic.partitions if 0 <= each.partition_index < count]
        if info is not None and topic.partitions:
            topic_ids[topic.name] = info.topic_id.bytes
            known.append(topic)
    request.topics = known
    return refused, topic_ids


def _refusal(request: TxnOffsetCommitRequest, version: int, code: ErrorCode) -> TxnOffsetCommitResponse:
    if code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS and version < _LOAD_IN_PROGRESS_SINCE:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    TxnOffsetCommitResponsePartition(partition_index=each.partition_index, error_code=code)
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def _merge(refused: list[TxnOffsetCommitResponseTopic], parts: list[Any]) -> TxnOffsetCommitResponse:
    response: TxnOffsetCommitResponse = parts[0]
    by_name = {topic.name: topic for topic in response.topics}
    for topic in refused:
        committed = by_name.get(topic.name)
        if committed is None:
            response.topics.append(topic)
        else:
            committed.partitions += topic.partitions
    return response
