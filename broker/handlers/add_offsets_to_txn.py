"""AddOffsetsToTxn (25): the offsets of a group are going to be committed in a transaction.

v0-v4. v2 PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH; v3 flexible; v4 TRANSACTION_ABORTABLE.

The group's partition of `__consumer_offsets` joins the transaction, as any other by AddPartitionsToTxn. Nothing is
asked of the group; TxnOffsetCommit goes to its coordinator. The empty group id is allowed, as in Kafka.
"""

from __future__ import annotations

from functools import partial

from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.reply import Reply
from broker.coordinator.transaction.answers import known_code
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse

API_KEY = ApiKey.ADD_OFFSETS_TO_TXN
MIN_VERSION = 0
MAX_VERSION = 4

_FENCED_SINCE = 2
_CLIENT_VERSION = 0
"""Producers of `transaction.version` 2 do without this request."""


def handle(services: Services, ctx: RequestContext, request: AddOffsetsToTxnRequest) -> Reply:
    reply = Reply(partial(_refusal, ctx.api_version))
    partitions = frozenset(((CONSUMER_OFFSETS, services.groups.partition_of(request.group_id)),))
    producer = request.producer_id, request.producer_epoch
    services.transactions.submit(
        request.transactional_id,
        reply,
        lambda machine, out: machine.add_partitions(
            out, reply, request.transactional_id, producer, partitions, _CLIENT_VERSION
        ),
    )
    return reply


def _refusal(version: int, code: ErrorCode) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(error_code=known_code(code, version >= _FENCED_SINCE))
