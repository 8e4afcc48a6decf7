"""DescribeConfigs (32): effective configs of topics, brokers, groups and client metrics subscriptions.

v1-v4. v1 adds synonyms and the source of a value (before: is_default), v3 types and documentation, v4 is flexible.

A null or empty list of names asks for all. A broker answers for itself, and for "" with what is set dynamically for
all brokers. Log levels (BROKER_LOGGER) have no configs here.
"""

from __future__ import annotations

from broker.cluster import names
from broker.cluster.errors import AdminError
from broker.config.definition import ResourceType
from broker.config.describe import (
    ConfigEntry,
    describe_broker,
    describe_client_metrics,
    describe_cluster_default,
    describe_group,
    describe_topic,
)
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

API_KEY = ApiKey.DESCRIBE_CONFIGS
MIN_VERSION = 1
MAX_VERSION = 4


def handle(services: Services, ctx: RequestContext, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    # a resource that is named twice is answered twice, as by Kafka
    results = [_describe(services, resource, request) for resource in request.resources]
    return DescribeConfigsResponse(throttle_time_ms=ctx.throttle_time_ms, results=results)


def _describe(
    services: Services, resource: DescribeConfigsResource, request: DescribeConfigsRequest
) -> DescribeConfigsResult:
    result = DescribeConfigsResult(
        error_message="", resource_type=resource.resource_type, resource_name=resource.resource_name
    )
    try:
        entries = _entries(services, resource.resource_type, resource.resource_name)
    except AdminError as error:
        result.error_code, result.error_message = error.code, error.message or ""
        return result
    wanted = frozenset(resource.configuration_keys or ())
    result.configs = [_result(entry, request) for entry in entries if not wanted or entry.name in wanted]
    return result


def _entries(services: Services, resource_type: int, name: str) -> list[ConfigEntry]:
    image, config = services.image, services.config
    match resource_type:
        case ResourceType.TOPIC:
            problem = names.name_problem(name)
            if problem is not None:
                raise AdminError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
            topic = image.topic(name)
            if topic is None:
                raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            return describe_topic(topic.configs, config)
        case ResourceType.BROKER:
            if not name:
                return describe_cluster_default(config)
            _check_own_id(services, name, "or empty string, ")
            return describe_broker(config)
        case ResourceType.BROKER_LOGGER:
            if not name:
                raise AdminError(ErrorCode.INVALID_REQUEST, "Broker id must not be empty")
            _check_own_id(services, name, "")
            return []
        case ResourceType.GROUP:
            if not name:
                raise AdminError(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
            return describe_group(image.dynamic_configs("group", name), config)
        case ResourceType.CLIENT_METRICS:
            if not name:
                raise AdminError(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
            return describe_client_metrics(image.dynamic_configs("client-metrics", name))
        case _:
            raise AdminError(ErrorCode.INVALID_REQUEST, f"Unknown resource type {resource_type}")


def _check_own_id(services: Services, name: str, alternative: str) -> None:
    """The static configs of another broker are known to that broker only."""
    try:
        node_id = int(name)
    except ValueError:
        message = f"Broker id must be an integer, but it is: {name}"
        raise AdminError(ErrorCode.INVALID_REQUEST, message) from None
    if node_id != services.node_id:
        raise AdminError(
            ErrorCode.INVALID_REQUEST,
            f"Unexpected broker id, expected {services.node_id} {alternative}but received {name}",
        )


def _result(entry: ConfigEntry, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    synonyms = entry.synonyms if request.include_synonyms else ()
    return DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.read_only,
        config_source=entry.source,
        is_sensitive=entry.sensitive,
        synonyms=[DescribeConfigsSynonym(name=each.name, value=each.value, source=each.source) for each in synonyms],
        config_type=entry.type,
        documentation=entry.documentation if request.include_documentation else None,
    )
