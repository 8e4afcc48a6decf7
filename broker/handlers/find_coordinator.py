"""FindCoordinator (10): which broker coordinates a group or a transactional id.

v0-v6. v1 key types; v3 flexible; v4 several keys (KIP-699); v5 TRANSACTION_ABORTABLE (KIP-890); v6 share groups.

* The coordinator is the leader of the partition of `__consumer_offsets`, or of `__transaction_state`, that the key
  hashes to. The topic is created when it is first needed; whoever asks meanwhile waits for it, for a while, and is then
  told COORDINATOR_NOT_AVAILABLE.
* Share groups are answered INVALID_REQUEST: they are not served yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

from broker.cluster.errors import AdminError
from broker.coordinator.group.service import GroupService
from broker.coordinator.transaction.service import TransactionService
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError

log = structlog.get_logger()

API_KEY = ApiKey.FIND_COORDINATOR
MIN_VERSION = 0
MAX_VERSION = 6

CREATION_TIMEOUT_S = 10.0
"""How long a request waits for the topic; clients try again."""

_SEVERAL_KEYS_SINCE = 4
_GROUP, _TRANSACTION = 0, 1


def handle(
    services: Services, ctx: RequestContext, request: FindCoordinatorRequest
) -> FindCoordinatorResponse | Awaitable[FindCoordinatorResponse]:
    several = ctx.api_version >= _SEVERAL_KEYS_SINCE
    keys = request.coordinator_keys if several else [request.key]
    coordinators = _coordinators(services, request.key_type)
    if coordinators is None:
        message = f"key type {request.key_type} is not served"
        return _response([_refused(key, ErrorCode.INVALID_REQUEST, message) for key in keys], several)
    if coordinators.topic() is None:
        return _after_creation(coordinators, keys, several)
    return _response([_find(coordinators, key) for key in keys], several)


def _coordinators(services: Services, key_type: int) -> GroupService | TransactionService | None:
    if key_type == _GROUP:
        return services.groups
    return services.transactions if key_type == _TRANSACTION else None


async def _after_creation(
    coordinators: GroupService | TransactionService, keys: list[str], several: bool
) -> FindCoordinatorResponse:
    try:
        await asyncio.wait_for(coordinators.create_topic(), CREATION_TIMEOUT_S)
    except (AdminError, CatalogError, StorageError, TimeoutError) as error:
        log.warning("topic of coordinators not created", error=str(error))
    return _response([_find(coordinators, key) for key in keys], several)


def _find(coordinators: GroupService | TransactionService, key: str) -> Coordinator:
    broker = coordinators.coordinator(key)
    if broker is None:
        return _refused(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "the coordinator is not available")
    return Coordinator(
        key=key, node_id=broker.node_id, host=broker.host, port=broker.port, error_code=ErrorCode.NONE, error_message=""
    )


def _refused(key: str, code: ErrorCode, message: str) -> Coordinator:
    return Coordinator(key=key, node_id=-1, host="", port=-1, error_code=code, error_message=message)


def _response(coordinators: list[Coordinator], several: bool) -> FindCoordinatorResponse:
    if several:
        return FindCoordinatorResponse(coordinators=coordinators)
    found = coordinators[0]
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )
