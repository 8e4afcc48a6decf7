"""EndTxn (26): commit or abort a transaction.

v0-v5. v2 PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH; v3 flexible; v4 TRANSACTION_ABORTABLE; v5 the producer goes
on with the id and epoch in the answer (KIP-890, `transaction.version` 2).

* The answer leaves when the decision is durable; the markers follow. The producer's next transaction waits for them.
* An ending that is repeated is answered as it was the first time. From v5 on, one that comes late finds another epoch
  and touches nothing.
* v5 may abort where nothing was added: the epoch grows all the same.
"""

from __future__ import annotations

from functools import partial

from broker.coordinator.reply import Reply
from broker.coordinator.transaction.answers import known_code
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.end_txn import EndTxnRequest, EndTxnResponse

API_KEY = ApiKey.END_TXN
MIN_VERSION = 0
MAX_VERSION = 5

_FENCED_SINCE = 2
_BUMPING_SINCE = 5
_PLAIN, _BUMPING = 0, 2
"""`transaction.version` of the producer."""


def handle(services: Services, ctx: RequestContext, request: EndTxnRequest) -> Reply:
    version = ctx.api_version
    reply = Reply(partial(_refusal, version))
    client_version = _BUMPING if version >= _BUMPING_SINCE else _PLAIN
    services.transactions.submit(
        request.transactional_id, reply, lambda machine, out: machine.end(out, reply, request, client_version)
    )
    return reply


def _refusal(version: int, code: ErrorCode) -> EndTxnResponse:
    return EndTxnResponse(error_code=known_code(code, version >= _FENCED_SINCE))
