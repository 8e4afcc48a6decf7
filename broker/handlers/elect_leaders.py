"""ElectLeaders (43): have partitions led by their preferred replica (KIP-460).

v0-v2. v1 unclean elections; v2 flexible. Null asks for all partitions; then those that need no election are left out.

* Preferred: the first of the assigned replicas takes over from the present leader, who hands over; the answer leaves
  when it leads. A partition that nobody assigned replicas to is led by its preferred one always: ELECTION_NOT_NEEDED.
* Unclean: nobody is ever made leader who does not have what was acknowledged. A partition with a leader needs no
  election, one without is ELIGIBLE_LEADERS_NOT_AVAILABLE until the log of its last one is recovered.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.cluster.errors import AdminError
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)

API_KEY = ApiKey.ELECT_LEADERS
MIN_VERSION = 0
MAX_VERSION = 2

TIMEOUT_MAX_S = 30.0
"""The leader may have to wait for its store; the client does not get to wait for longer than this."""
_PREFERRED, _UNCLEAN = 0, 1


async def handle(services: Services, ctx: RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse:
    asked = request.topic_partitions
    wishes = None if asked is None else [(topic.topic, index) for topic in asked for index in topic.partitions]
    if request.election_type == _PREFERRED:
        timeout_s = min(max(request.timeout_ms, 0) / 1000, TIMEOUT_MAX_S)
        results = await services.topics.reassignments.elect_preferred(wishes, timeout_s)
    elif request.election_type == _UNCLEAN:
        results = services.topics.reassignments.elect_unclean(wishes)
    else:
        return _unknown_type(ctx, request, wishes or [])
    if asked is None:
        names = [topic.name for topic in services.image.topics()]
        results = {
            wish: error
            for wish, error in results.items()
            if error is None or error.code is not ErrorCode.ELECTION_NOT_NEEDED
        }
        shown = [(name, [index for topic, index in results if topic == name]) for name in names]
    else:
        shown = [(topic.topic, topic.partitions) for topic in asked]
    return ElectLeadersResponse(
        throttle_time_ms=ctx.throttle_time_ms, replica_election_results=_results(shown, results)
    )


def _unknown_type(
    ctx: RequestContext, request: ElectLeadersRequest, wishes: list[tuple[str, int]]
) -> ElectLeadersResponse:
    error = AdminError(ErrorCode.INVALID_REQUEST, f"Unknown election type {request.election_type}")
    asked = request.topic_partitions
    return ElectLeadersResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        error_code=ErrorCode.NONE if asked == [] else error.code,
        replica_election_results=_results(
            [(topic.topic, topic.partitions) for topic in asked or ()], dict.fromkeys(wishes, error)
        ),
    )


def _results(
    shown: list[tuple[str, list[int]]], results: Mapping[tuple[str, int], AdminError | None]
) -> list[ReplicaElectionResult]:
    return [
        ReplicaElectionResult(topic=name, partition_result=[_result(index, results[name, index]) for index in indexes])
        for name, indexes in shown
    ]


def _result(index: int, error: AdminError | None) -> PartitionResult:
    if error is None:
        return PartitionResult(partition_id=index, error_code=ErrorCode.NONE, error_message=None)
    return PartitionResult(partition_id=index, error_code=error.code, error_message=error.message)
