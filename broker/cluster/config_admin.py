"""`ConfigAdmin`: changes of configs of topics, brokers, groups and client metrics, for both Alter APIs.

A change is worked out against what is set now, the outcome is validated as a whole, then written in one catalog
transaction; the image is refreshed before the answer leaves. Errors and their wording are Kafka's.

Broker configs: only what `broker_definitions` lists as dynamic can be set, for one broker or (name "") for all. Names
that are not known are kept, as in Kafka, where plug-ins may read them; here they have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import structlog

from broker.cluster import names
from broker.cluster.errors import AdminError
from broker.cluster.image import MetadataImage
from broker.config.broker_config import BrokerConfig
from broker.config.broker_definitions import BROKER_CONFIGS
from broker.config.definition import ConfigDef, ConfigError, ConfigType, ResourceType, Update
from broker.config.group_definitions import CLIENT_METRICS_CONFIGS, GROUP_CONFIGS
from broker.config.topic_config import validate_topic_configs
from broker.config.topic_definitions import TOPIC_CONFIGS
from protocol.errors import ErrorCode
from s3stream.catalog.api import Catalog, UnknownTopic

log = structlog.get_logger()

Configs = Mapping[str, str]
Delta = dict[str, str | None]
"""Config name -> new text; None removes."""

_DEFINITIONS: dict[ResourceType, dict[str, ConfigDef]] = {
    ResourceType.TOPIC: TOPIC_CONFIGS,
    ResourceType.BROKER: BROKER_CONFIGS,
    ResourceType.GROUP: GROUP_CONFIGS,
    ResourceType.CLIENT_METRICS: CLIENT_METRICS_CONFIGS,
}

CATALOG_TYPES: dict[ResourceType, str] = {
    ResourceType.TOPIC: "topic",
    ResourceType.BROKER: "broker",
    ResourceType.GROUP: "group",
    ResourceType.CLIENT_METRICS: "client-metrics",
}


class Operation(IntEnum):
    """Of IncrementalAlterConfigs."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class ConfigAdmin:
    """See the module docstring. Methods raise AdminError or CatalogError."""

    def __init__(self, catalog: Catalog, image: MetadataImage, config: BrokerConfig) -> None:
        self._catalog = catalog
        self._image = image
        self._config = config

    async def alter(
        self,
        resource_type: int,
        name: str,
        operations: Sequence[tuple[str, int, str | None]],
        *,
        validate_only: bool = False,
    ) -> None:
        """Incremental: (config name, operation, value) each."""
        kind, current = self._current(resource_type, name)
        _check_duplicates([key for key, _, _ in operations])
        delta: Delta = {}
        for key, operation, value in operations:
            delta[key] = _operate(kind, current, key, operation, value)
        await self._apply(kind, name, current, delta, validate_only)

    async def replace(
        self,
        resource_type: int,
        name: str,
        values: Sequence[tuple[str, str | None]],
        *,
        validate_only: bool = False,
    ) -> None:
        """AlterConfigs: afterwards `values` is all that is set."""
        kind, current = self._current(resource_type, name)
        _check_duplicates([key for key, _ in values])
        delta: Delta = dict.fromkeys(current)
        for key, value in values:
            if value is None:
                raise _null_value(key)
            delta[key] = value
        await self._apply(kind, name, current, delta, validate_only)

    # -- steps ------------------------------------------------------------------------------------------------------
    def _current(self, resource_type: int, name: str) -> tuple[ResourceType, Configs]:
        """What is set on the resource now, or why there is no such resource."""
        match resource_type:
            case ResourceType.TOPIC:
                return ResourceType.TOPIC, self._topic_configs(name)
            case ResourceType.BROKER:
                self._check_broker(name)
            case ResourceType.GROUP:
                if not name:
                    raise AdminError(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
            case ResourceType.CLIENT_METRICS:
                if not name:
                    raise AdminError(ErrorCode.INVALID_REQUEST, "Subscription name can't be empty")
            case ResourceType.BROKER_LOGGER:
                raise AdminError(ErrorCode.INVALID_REQUEST, "Log levels cannot be changed while the broker runs.")
            case _:
                raise AdminError(ErrorCode.INVALID_REQUEST, f"Unknown resource type {resource_type}")
        kind = ResourceType(resource_type)
        return kind, self._image.dynamic_configs(CATALOG_TYPES[kind], name)

    def _topic_configs(self, name: str) -> Configs:
        if not name:
            raise AdminError(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
        problem = names.name_problem(name)
        if problem is not None:
            raise AdminError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
        topic = self._image.topic(name)
        if topic is None:
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
        return topic.configs

    def _check_broker(self, name: str) -> None:
        if not name:
            return
        try:
            node_id = int(name)
        except ValueError:
            message = f"Node id must be an integer, but it is: {name}"
            raise AdminError(ErrorCode.INVALID_REQUEST, message) from None
        if node_id != self._image.node_id and self._image.broker(node_id) is None:
            message = f"Unexpected broker id, expected {self._image.node_id}, but received {name}"
            raise AdminError(ErrorCode.INVALID_REQUEST, message)

    async def _apply(self, kind: ResourceType, name: str, current: Configs, delta: Delta, validate_only: bool) -> None:
        outcome = {key: value for key, value in {**current, **delta}.items() if value is not None}
        match kind:
            case ResourceType.TOPIC:
                _validate(lambda: validate_topic_configs(outcome, self._config), ErrorCode.INVALID_CONFIG)
            case ResourceType.BROKER:
                _check_dynamic(name, delta)
                known = {key: value for key, value in delta.items() if key in BROKER_CONFIGS}
                _validate(lambda: _parse_all(kind, known), ErrorCode.INVALID_REQUEST)
            case _:
                _validate(lambda: _parse_all(kind, delta), ErrorCode.INVALID_CONFIG)
        changed = {key: value for key, value in delta.items() if current.get(key) != value}
        if validate_only or not changed:
            return
        try:
            await self._catalog.alter_configs(CATALOG_TYPES[kind], name, changed)
        except UnknownTopic:
            message = f"The topic '{name}' does not exist."
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, message) from None
        await self._image.refresh()
        log.info("configs altered", resource=CATALOG_TYPES[kind], name=name, configs=sorted(changed))


def _check_duplicates(keys: Sequence[str]) -> None:
    if len(set(keys)) != len(keys):
        raise AdminError(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")


def _null_value(key: str) -> AdminError:
    return AdminError(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {key}")


def _operate(kind: ResourceType, current: Configs, key: str, operation: int, value: str | None) -> str | None:
    """The new text of one config."""
    if operation == Operation.DELETE:
        return None
    if operation not in tuple(Operation):
        raise AdminError(ErrorCode.INVALID_REQUEST, f"Unknown operation {operation} for {key}")
    if value is None:
        raise _null_value(key)
    if operation == Operation.SET:
        return value
    definition = _DEFINITIONS[kind].get(key)
    if definition is None or definition.type is not ConfigType.LIST:
        verb = Operation(operation).name
        raise AdminError(ErrorCode.INVALID_CONFIG, f"Can't {verb} to key {key} because its type is not LIST.")
    present = _items(current.get(key, definition.default or ""))
    given = _items(value)
    if operation == Operation.APPEND:
        return ",".join(dict.fromkeys((*present, *given)))
    return ",".join(each for each in present if each not in given)


def _items(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")] if text.strip() else []


def _check_dynamic(name: str, delta: Delta) -> None:
    """Whether these broker configs can be changed while brokers run, for one of them or for all."""
    updates = {key: BROKER_CONFIGS[key].update for key in delta if key in BROKER_CONFIGS}
    fixed = [key for key, update in updates.items() if update is Update.READ_ONLY]
    if fixed:
        message = f"Cannot update these configs dynamically: [{', '.join(fixed)}]"
        raise AdminError(ErrorCode.INVALID_REQUEST, message)
    single = [key for key, update in updates.items() if update is Update.PER_BROKER]
    if single and not name:
        raise AdminError(
            ErrorCode.INVALID_REQUEST,
            f"Cannot update these configs at default cluster level, broker id must be specified: [{', '.join(single)}]",
        )


def _parse_all(kind: ResourceType, values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        definition = _DEFINITIONS[kind].get(key)
        if definition is not None:
            definition.parse(value)
        elif value is not None:
            what = "group" if kind is ResourceType.GROUP else "client metrics"
            raise ConfigError(f"Unknown {what} config name: {key}")


def _validate(check: Callable[[], None], code: ErrorCode) -> None:
    try:
        check()
    except ConfigError as error:
        raise AdminError(code, str(error)) from None
