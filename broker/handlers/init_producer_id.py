"""InitProducerId (22): a producer id for an idempotent producer.

v0-v5. v2 flexible; v3 the producer names its former id and epoch (KIP-360), which matters to transactions only; v5 is
the version of KIP-890. A producer without transactional id always gets a new id with epoch 0, as from Kafka.

Transactional ids are refused with UNSUPPORTED_VERSION (not retriable) until transactions are served.
"""

from __future__ import annotations

from collections.abc import Awaitable

from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from s3stream.catalog.api import CatalogError

API_KEY = ApiKey.INIT_PRODUCER_ID
MIN_VERSION = 0
MAX_VERSION = 5


def handle(
    services: Services, ctx: RequestContext, request: InitProducerIdRequest
) -> InitProducerIdResponse | Awaitable[InitProducerIdResponse]:
    if request.transactional_id is not None:
        code = ErrorCode.UNSUPPORTED_VERSION if request.transactional_id else ErrorCode.INVALID_REQUEST
        return _response(ctx, error_code=code)
    producer_id = services.producer_ids.take()
    if producer_id is None:
        return _wait_for_block(services, ctx)
    return _response(ctx, producer_id=producer_id)


async def _wait_for_block(services: Services, ctx: RequestContext) -> InitProducerIdResponse:
    try:
        producer_id = await services.producer_ids.next_id()
    except CatalogError:
        return _response(ctx, error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return _response(ctx, producer_id=producer_id)


def _response(ctx: RequestContext, producer_id: int = -1, error_code: int = ErrorCode.NONE) -> InitProducerIdResponse:
    return InitProducerIdResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        error_code=error_code,
        producer_id=producer_id,
        producer_epoch=0 if error_code == ErrorCode.NONE else -1,
    )
