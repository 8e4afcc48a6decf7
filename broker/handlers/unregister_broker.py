"""UnregisterBroker (64): forget a broker that has stopped and will not come back, with its configs.

v0. BROKER_ID_NOT_REGISTERED for one that nobody knows. One that runs, or whose write-ahead log has not been recovered
yet, is refused with INVALID_REQUEST; Kafka fences it instead, and lets it register again. A broker that is forgotten
and starts again is a new one.
"""

from __future__ import annotations

from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse
from s3stream.catalog.api import BrokerNotStopped, CatalogError, UnknownBroker

API_KEY = ApiKey.UNREGISTER_BROKER
MIN_VERSION = 0
MAX_VERSION = 0


async def handle(services: Services, ctx: RequestContext, request: UnregisterBrokerRequest) -> UnregisterBrokerResponse:
    response = UnregisterBrokerResponse(throttle_time_ms=ctx.throttle_time_ms, error_message=None)
    try:
        await services.catalog.unregister_broker(request.broker_id)
        await services.image.refresh()
    except UnknownBroker as error:
        response.error_code, response.error_message = ErrorCode.BROKER_ID_NOT_REGISTERED, str(error)
    except BrokerNotStopped as error:
        response.error_code, response.error_message = ErrorCode.INVALID_REQUEST, str(error)
    except CatalogError as error:
        response.error_code, response.error_message = ErrorCode.REQUEST_TIMED_OUT, str(error)
    return response
