"""InitProducerId (22): a producer id and epoch, for an idempotent producer or for the holder of a transactional id.

v0-v5. v2 flexible; v3 the producer names its former id and epoch (KIP-360); v4 PRODUCER_FENCED instead of
INVALID_PRODUCER_EPOCH (KIP-588); v5 is the version of KIP-890.

* A producer without transactional id always gets a new id with epoch 0, whatever it names, as from Kafka.
* With one it gets the next epoch, which fences whoever had the last. See `broker.coordinator.transaction.rules`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any

from broker.coordinator.reply import Reply
from broker.coordinator.transaction.answers import known_code
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from s3stream.catalog.api import CatalogError

API_KEY = ApiKey.INIT_PRODUCER_ID
MIN_VERSION = 0
MAX_VERSION = 5

_FENCED_SINCE = 4
_NONE = -1


def handle(
    services: Services, ctx: RequestContext, request: InitProducerIdRequest
) -> InitProducerIdResponse | Reply | Awaitable[Any]:
    if (request.producer_id == _NONE) != (request.producer_epoch == _NONE):
        return _refusal(ctx.api_version, ErrorCode.INVALID_REQUEST)
    if request.transactional_id is None:
        producer_id = services.producer_ids.take()
        return _next_id(services, ctx) if producer_id is None else _response(producer_id)
    if not services.producer_ids.at_hand:
        return _with_id_at_hand(services, ctx, request)
    return _initialize(services, ctx, request)


async def _next_id(services: Services, ctx: RequestContext) -> InitProducerIdResponse:
    try:
        return _response(await services.producer_ids.next_id())
    except CatalogError:
        return _refusal(ctx.api_version, ErrorCode.COORDINATOR_NOT_AVAILABLE)


def _initialize(services: Services, ctx: RequestContext, request: InitProducerIdRequest) -> Reply:
    reply = Reply(partial(_refusal, ctx.api_version))
    services.transactions.submit(
        request.transactional_id or "", reply, lambda machine, out: machine.init_producer_id(out, reply, request)
    )
    return reply


async def _with_id_at_hand(
    services: Services, ctx: RequestContext, request: InitProducerIdRequest
) -> InitProducerIdResponse:
    """The coordinator may need an id, and cannot wait for one."""
    try:
        await services.producer_ids.wait()
    except CatalogError:
        return _refusal(ctx.api_version, ErrorCode.COORDINATOR_NOT_AVAILABLE)
    reply = _initialize(services, ctx, request)
    if not reply.done:
        answered = asyncio.Event()
        reply.on_complete = lambda _: answered.set()
        await answered.wait()
    response: InitProducerIdResponse = reply.response
    return response


def _response(producer_id: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


def _refusal(version: int, code: ErrorCode) -> InitProducerIdResponse:
    code = known_code(code, version >= _FENCED_SINCE)
    return InitProducerIdResponse(error_code=code, producer_id=_NONE, producer_epoch=_NONE)
