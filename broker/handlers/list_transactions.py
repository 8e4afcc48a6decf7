"""ListTransactions (66): the transactional ids that this broker coordinates (KIP-664).

v0-v2, flexible. v1 filter by duration; v2 by a pattern of the whole transactional id (KIP-1152), in RE2's syntax.

* Filters are all to be met. State names are as printed, case included; unknown ones are told, and if no other was given
  nothing matches.
* While one of the coordinator's shards loads there is no complete answer: COORDINATOR_LOAD_IN_PROGRESS.
* A pattern that does not compile: INVALID_REGULAR_EXPRESSION.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.coordinator.regex import InvalidRegex, full_match
from broker.coordinator.reply import Gathered, Reply
from broker.coordinator.shard import Shard
from broker.coordinator.transaction.listing import TransactionFilter
from broker.coordinator.transaction.machine import TransactionMachine
from broker.coordinator.transaction.states import STATE_BY_LABEL
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse

API_KEY = ApiKey.LIST_TRANSACTIONS
MIN_VERSION = 0
MAX_VERSION = 2


def handle(
    services: Services, ctx: RequestContext, request: ListTransactionsRequest
) -> ListTransactionsResponse | Deferred:
    states = frozenset(STATE_BY_LABEL[each] for each in request.state_filters if each in STATE_BY_LABEL)
    unknown = [each for each in request.state_filters if each not in STATE_BY_LABEL]
    if request.state_filters and not states:
        return ListTransactionsResponse(unknown_state_filters=unknown)
    try:
        wanted = TransactionFilter(
            states,
            frozenset(request.producer_id_filters),
            request.duration_filter,
            full_match(request.transactional_id_pattern) if request.transactional_id_pattern else None,
        )
    except InvalidRegex:
        return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    listed = [_list(shard, wanted) for shard in [*services.transactions.shards()]]
    return Gathered(listed, partial(_combine, unknown))


def _list(shard: Shard[TransactionMachine], wanted: TransactionFilter) -> Reply:
    reply = Reply(lambda code: code)
    shard.submit(None, reply, lambda machine, out: machine.list_transactions(out, reply, wanted))
    return reply


def _combine(unknown: list[str], parts: list[Any]) -> ListTransactionsResponse:
    """A shard that is gone has no transactions here any more."""
    if any(part is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS for part in parts):
        return ListTransactionsResponse(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    return ListTransactionsResponse(
        unknown_state_filters=unknown,
        transaction_states=[each for part in parts if isinstance(part, list) for each in part],
    )
