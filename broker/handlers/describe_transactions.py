"""DescribeTransactions (65): the state of transactional ids (KIP-664).

v0, flexible. Answered by each one's coordinator. A transaction that is being ended shows the partitions that have not
confirmed their marker yet. An id that is not known: TRANSACTIONAL_ID_NOT_FOUND.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    TransactionState,
)

API_KEY = ApiKey.DESCRIBE_TRANSACTIONS
MIN_VERSION = 0
MAX_VERSION = 0


def handle(services: Services, ctx: RequestContext, request: DescribeTransactionsRequest) -> Gathered:
    return Gathered([_describe(services, each) for each in request.transactional_ids], _combine)


def _describe(services: Services, transactional_id: str) -> Reply:
    reply = Reply(partial(_refusal, transactional_id))
    services.transactions.submit(
        transactional_id, reply, lambda machine, out: machine.describe(out, reply, transactional_id)
    )
    return reply


def _refusal(transactional_id: str, code: ErrorCode) -> TransactionState:
    return TransactionState(transactional_id=transactional_id, error_code=code)


def _combine(parts: list[Any]) -> DescribeTransactionsResponse:
    return DescribeTransactionsResponse(transaction_states=parts)
