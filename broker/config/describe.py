"""How configs are shown: value, source, synonyms, as `kafka-configs --describe` prints them.

The synonyms of a config are all the places its value could come from, strongest first; the first is where it does come
from. As in Kafka, those of log.retention.ms (and the other configs with a name per unit) begin at the first one that
has the name asked for, so a value that comes from log.retention.hours is shown as a default without synonyms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.config.broker_config import BrokerConfig
from broker.config.broker_definitions import BROKER_CONFIGS, SYNONYMS
from broker.config.definition import ConfigDef, ConfigSource, Update, Value
from broker.config.group_definitions import CLIENT_METRICS_CONFIGS, GROUP_CONFIGS
from broker.config.topic_config import effective_value
from broker.config.topic_definitions import TOPIC_CONFIGS

UNKNOWN_TYPE = 0


@dataclass(frozen=True, slots=True)
class Synonym:
    name: str
    value: str | None
    source: ConfigSource


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """`type` is a ConfigType, or 0 when the name is not known."""

    name: str
    value: str | None
    source: ConfigSource
    read_only: bool
    sensitive: bool
    type: int
    documentation: str | None
    synonyms: tuple[Synonym, ...]


def to_text(value: Value) -> str | None:
    """A typed value as Kafka prints it."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def describe_topic(configs: Mapping[str, str], broker: BrokerConfig) -> list[ConfigEntry]:
    """`configs`: what is set on the topic."""
    return [_describe_over_broker(each, configs, ConfigSource.TOPIC, broker) for each in TOPIC_CONFIGS.values()]


def describe_group(configs: Mapping[str, str], broker: BrokerConfig) -> list[ConfigEntry]:
    return [_describe_over_broker(each, configs, ConfigSource.GROUP, broker) for each in GROUP_CONFIGS.values()]


def describe_client_metrics(configs: Mapping[str, str]) -> list[ConfigEntry]:
    entries = []
    for definition in CLIENT_METRICS_CONFIGS.values():
        own = configs.get(definition.name)
        value = definition.default if own is None else own
        synonyms = () if own is None else (Synonym(definition.name, own, ConfigSource.CLIENT_METRICS),)
        entries.append(_entry(definition, value, synonyms))
    return entries


def describe_broker(broker: BrokerConfig) -> list[ConfigEntry]:
    """This broker's effective configs."""
    entries = []
    for definition in BROKER_CONFIGS.values():
        synonyms = _broker_synonyms(definition.name, broker)
        text = None if definition.sensitive else to_text(broker.value(definition.name))
        entries.append(_entry(definition, text, synonyms, read_only=definition.update is Update.READ_ONLY))
    entries += _unknown(ConfigSource.DYNAMIC_BROKER, broker.dynamic)
    entries += _unknown(ConfigSource.DYNAMIC_DEFAULT_BROKER, broker.dynamic_default, but_not=broker.dynamic)
    return entries


def describe_cluster_default(broker: BrokerConfig) -> list[ConfigEntry]:
    """Only what is set dynamically for all brokers."""
    source = ConfigSource.DYNAMIC_DEFAULT_BROKER
    entries = []
    for name, value in broker.dynamic_default.items():
        definition = BROKER_CONFIGS.get(name)
        if definition is not None:
            read_only = definition.update is Update.READ_ONLY
            entries.append(_entry(definition, value, (Synonym(name, value, source),), read_only=read_only))
    return entries + _unknown(source, broker.dynamic_default)


def _describe_over_broker(
    definition: ConfigDef, configs: Mapping[str, str], own_source: ConfigSource, broker: BrokerConfig
) -> ConfigEntry:
    value = to_text(effective_value(definition, configs, broker))
    synonyms: tuple[Synonym, ...] = ()
    if definition.synonym is not None:
        synonyms = _broker_synonyms(definition.synonym, broker)
    if definition.name in configs:
        synonyms = (Synonym(definition.name, value, own_source), *synonyms)
    return _entry(definition, value, synonyms)


def _entry(
    definition: ConfigDef, value: str | None, synonyms: tuple[Synonym, ...], *, read_only: bool = False
) -> ConfigEntry:
    return ConfigEntry(
        name=definition.name,
        value=value,
        source=synonyms[0].source if synonyms else ConfigSource.DEFAULT,
        read_only=read_only,
        sensitive=definition.sensitive,
        type=definition.type,
        documentation=documentation(definition),
        synonyms=synonyms,
    )


def _broker_synonyms(name: str, broker: BrokerConfig) -> tuple[Synonym, ...]:
    found = []
    family = SYNONYMS.get(name, (name,))
    for source, layer in broker.layers():
        found += [Synonym(each, _shown(each, layer[each]), source) for each in family if each in layer]
    for each in family:
        default = BROKER_CONFIGS[each].default
        if default is not None:
            found.append(Synonym(each, _shown(each, default), ConfigSource.DEFAULT))
    while found and found[0].name != name:
        del found[0]
    return tuple(found)


def _shown(name: str, text: str) -> str | None:
    return None if BROKER_CONFIGS[name].sensitive else text


def _unknown(source: ConfigSource, layer: Mapping[str, str], but_not: Iterable[str] = ()) -> list[ConfigEntry]:
    """What somebody else's plug-in may have set: its value could be a secret, so that it is not shown."""
    return [
        ConfigEntry(name, None, source, True, True, UNKNOWN_TYPE, None, (Synonym(name, None, source),))
        for name in layer
        if name not in BROKER_CONFIGS and name not in but_not
    ]


def documentation(definition: ConfigDef) -> str:
    """For people: what the config is, and what is different here."""
    return f"{definition.doc} {definition.note}".strip()
