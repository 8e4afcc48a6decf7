"""What a config definition is: type, default, validity, effect; and how a text value becomes a typed one.

Texts are parsed the way Kafka's ConfigDef does it: surrounding blanks are dropped, booleans ignore case, lists are
separated by commas. A value that is refused raises `ConfigError` with Kafka's wording, because people grep for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum

Value = bool | int | float | str | tuple[str, ...] | None
Validator = Callable[[str, Value], None]

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1

_INTEGER = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)
_DOUBLE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z", re.ASCII)
_THROTTLED = re.compile(r"[0-9]+:[0-9]+\Z", re.ASCII)


class ConfigError(Exception):
    """A name or a value that cannot be accepted. The message is for the user."""


class ConfigType(IntEnum):
    """Numbered as in DescribeConfigs responses."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSource(IntEnum):
    """Where a value comes from; numbered as in DescribeConfigs responses."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    DYNAMIC_BROKER_LOGGER = 6
    CLIENT_METRICS = 7
    GROUP = 8


class ResourceType(IntEnum):
    """Config resources as the protocol numbers them."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class Effect(Enum):
    """What setting a config does here."""

    HONOURED = "honoured"
    ACCEPTED = "accepted without effect"
    REFUSED = "refused"


class Update(Enum):
    """How a broker config may be changed while the broker runs."""

    READ_ONLY = "read-only"
    PER_BROKER = "per-broker"
    CLUSTER_WIDE = "cluster-wide"


@dataclass(frozen=True, slots=True)
class ConfigDef:
    """One config. `default` is its text (None: no value). `note` says what is different here, for the docs.

    `synonym`: the broker config that a topic or group config defaults to.
    """

    name: str
    type: ConfigType
    default: str | None
    validate: Validator | None
    effect: Effect
    doc: str
    note: str = ""
    synonym: str | None = None
    update: Update = Update.READ_ONLY

    @property
    def attribute(self) -> str:
        """The name of the typed attribute."""
        return self.name.replace(".", "_")

    @property
    def sensitive(self) -> bool:
        return self.type is ConfigType.PASSWORD

    def parse(self, text: str | None) -> Value:
        """The typed value of `text`. Raises ConfigError."""
        if text is None:
            return None
        value = _PARSERS[self.type](self.name, text)
        if self.validate is not None:
            self.validate(self.name, value)
        return value


def invalid(name: str, shown: object, reason: str) -> ConfigError:
    return ConfigError(f"Invalid value {shown} for configuration {name}: {reason}")


def by_name(definitions: Iterable[ConfigDef]) -> dict[str, ConfigDef]:
    return {each.name: each for each in definitions}


# -- parsing ----------------------------------------------------------------------------------------------------------
def _parse_boolean(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise invalid(name, text, "Expected value to be either true or false")
    return word == "true"


def _parse_string(name: str, text: str) -> str:
    return text.strip()


def _parse_list(name: str, text: str) -> tuple[str, ...]:
    stripped = text.strip()
    return tuple(each.strip() for each in stripped.split(",")) if stripped else ()


def _parse_double(name: str, text: str) -> float:
    stripped = text.strip()
    if not _DOUBLE.match(stripped):
        raise invalid(name, stripped, "Not a number of type DOUBLE")
    return float(stripped)


def _integer_parser(type_name: str, bits: int) -> Callable[[str, str], int]:
    limit = 1 << (bits - 1)

    def parse(name: str, text: str) -> int:
        stripped = text.strip()
        # the length is checked first: int() of a very long text is slow and may raise
        if len(stripped) <= 20 and _INTEGER.match(stripped) and -limit <= (value := int(stripped)) < limit:
            return value
        raise invalid(name, stripped, f"Not a number of type {type_name}")

    return parse


_PARSERS: dict[ConfigType, Callable[[str, str], Value]] = {
    ConfigType.BOOLEAN: _parse_boolean,
    ConfigType.STRING: _parse_string,
    ConfigType.INT: _integer_parser("INT", 32),
    ConfigType.SHORT: _integer_parser("SHORT", 16),
    ConfigType.LONG: _integer_parser("LONG", 64),
    ConfigType.DOUBLE: _parse_double,
    ConfigType.LIST: _parse_list,
    ConfigType.CLASS: _parse_string,
    ConfigType.PASSWORD: _parse_string,
}


# -- validators -------------------------------------------------------------------------------------------------------
def at_least(minimum: int) -> Validator:
    return between(minimum, None)


def between(minimum: int, maximum: int | None) -> Validator:
    """Both inclusive."""

    def check(name: str, value: Value) -> None:
        assert isinstance(value, int | float)
        if value < minimum:
            raise invalid(name, value, f"Value must be at least {minimum}")
        if maximum is not None and value > maximum:
            raise invalid(name, value, f"Value must be no more than {maximum}")

    return check


def one_of(*words: str) -> Validator:
    def check(name: str, value: Value) -> None:
        if value not in words:
            raise invalid(name, value, f"String must be one of: {', '.join(words)}")

    return check


def list_of(*words: str) -> Validator:
    def check(name: str, value: Value) -> None:
        assert isinstance(value, tuple)
        if "" in value:
            raise ConfigError(f"Configuration '{name}' values must not be empty.")
        for each in value:
            if each not in words:
                raise invalid(name, each, f"String must be one of: {', '.join(words)}")

    return check


def gzip_level(name: str, value: Value) -> None:
    assert isinstance(value, int)
    if value != -1 and not 1 <= value <= 9:
        raise invalid(name, value, "Value must be between 1 and 9 or equal to -1")


def throttled_replicas(name: str, value: Value) -> None:
    assert isinstance(value, tuple)
    if value != ("*",) and not all(_THROTTLED.match(each) for each in value):
        form = "[partitionId]:[brokerId],[partitionId]:[brokerId],..."
        shown = f"[{', '.join(value)}]"
        raise invalid(
            name, shown, f"{name} must be the literal '*' or a list of replicas in the following format: {form}"
        )
