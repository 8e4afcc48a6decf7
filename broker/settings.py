"""Settings of one broker process: frozen data from flags, environment, a TOML file and defaults, in that precedence.

| setting | flag | environment | TOML |
|---|---|---|---|
| `node_id` | `--node-id` | `TAILRACE_NODE_ID` | `node_id = 1` |
| ... every field of `Settings` likewise | | | |
| Kafka-named broker configs | | `TAILRACE_BROKER_NUM_PARTITIONS` | `[broker]` `"num.partitions" = 4` |
| limits of the storage | | `TAILRACE_STORAGE_BLOCK_SIZE` | `[storage]` `block_size = 33554432` |

In a `TAILRACE_BROKER_...` variable an underscore stands for a dot. The file may be named by `TAILRACE_CONFIG` too. A
name that is not known is refused in the file; in the environment it is ignored unless it begins with one of the two
longer prefixes (container platforms put variables of their own there). Broker configs are validated by `BrokerConfig`.

Read with the standard library on purpose; see docs/decisions/0002-settings-without-a-framework.md.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from s3stream.settings import StorageSettings

ENVIRONMENT_PREFIX = "TAILRACE_"
LOG_LEVELS = ("debug", "info", "warning", "error")
NODE_ID_MAX = 2**31 - 1
LEASE_MS_MIN = 1_000
BROKERS_MAX = 32
"""In one command on one machine."""


class SettingsError(Exception):
    """One line that names the setting, where it came from, and what would be right."""


class Address(NamedTuple):
    """Where to listen or to connect. Prints as HOST:PORT, an IPv6 host in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_LISTEN = Address("127.0.0.1", 9092)


def parse_address(text: str) -> Address:
    """From HOST:PORT; HOST may be in brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or (":" in host and not bracketed):
        raise ValueError("is not HOST:PORT")
    if int(port) > 65535:
        raise ValueError("has a port above 65535")
    return Address(host[1:-1] if bracketed else host, int(port))


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"is not a number from {low} to {high}")
        return number

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not a text")
    return value.strip()


def _address(value: Any) -> Address:
    return parse_address(_text(value))


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value)).expanduser()


def _url(value: Any) -> str:
    text = _text(value)
    if ":" not in text:
        raise ValueError("is not a URL")
    return text


def _log_level(value: Any) -> str:
    level = _text(value).lower()
    if level not in LOG_LEVELS:
        raise ValueError(f"is not one of {', '.join(LOG_LEVELS)}")
    return level


@dataclass(frozen=True, slots=True)
class Settings:
    """URLs that are not set lie under `data_dir`."""

    brokers: int = 1
    """How many brokers the command runs on this machine; see `broker.local_cluster`."""
    node_id: int = 1
    listen: Address = DEFAULT_LISTEN
    advertised: Address | None = None
    """What clients are told to connect to; the address that is listened on if not set."""
    rack: str | None = None
    data_dir: Path = Path("data")
    objects: str | None = None
    metadata: str | None = None
    wal: str | None = None
    log_level: str = "info"
    lease_ms: int = 10_000
    """How long the broker may act without the metadata database; renewed every third of it."""
    broker: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Static broker configs by Kafka's names."""
    storage: StorageSettings = field(default_factory=StorageSettings)

    @property
    def objects_url(self) -> str:
        return self.objects or (self.data_dir.absolute() / "objects").as_uri()

    @property
    def metadata_url(self) -> str:
        return self.metadata or f"sqlite:///{self.data_dir.absolute() / 'catalog.db'}"

    @property
    def wal_url(self) -> str:
        return self.wal or (self.data_dir.absolute() / "wal").as_uri()


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "brokers": _integer(1, BROKERS_MAX),
    "node_id": _integer(0, NODE_ID_MAX),
    "listen": _address,
    "advertised": _address,
    "rack": _text,
    "data_dir": _path,
    "objects": _url,
    "metadata": _url,
    "wal": _url,
    "log_level": _log_level,
    "lease_ms": _integer(LEASE_MS_MIN, 600_000),
}
_STORAGE_FIELDS = {item.name for item in dataclasses.fields(StorageSettings)}
_storage_value = _integer(1, 2**53)


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str], config_file: Path | None) -> Settings:
    """`flags` maps field names to values as typed; None is a flag that was not given. Raises SettingsError."""
    if config_file is None and (named := environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")):
        config_file = Path(named)
    values: dict[str, Any] = {}
    broker: dict[str, str] = {}
    storage: dict[str, int] = {}
    if config_file is not None:
        _take_file(config_file, values, broker, storage)
    _take_environment(environment, values, broker, storage)
    for name, value in flags.items():
        if value is not None:
            values[name] = _parsed(f"--{name.replace('_', '-')}", _FIELDS[name], value)
    try:
        return Settings(**values, broker=MappingProxyType(broker), storage=StorageSettings(**storage))
    except ValueError as error:
        raise SettingsError(f"storage settings: {error}") from None


def _take_file(path: Path, values: dict[str, Any], broker: dict[str, str], storage: dict[str, int]) -> None:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the config file {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from None
    for name, value in tables.items():
        where = f"{name} in {path}"
        if name == "broker" and isinstance(value, dict):
            _take_broker_table(path, "", value, broker)
        elif name == "storage" and isinstance(value, dict):
            for key, number in value.items():
                if key not in _STORAGE_FIELDS:
                    raise SettingsError(f"unknown setting storage.{key} in {path}")
                storage[key] = _parsed(f"storage.{key} in {path}", _storage_value, number)
        elif name in _FIELDS:
            values[name] = _parsed(where, _FIELDS[name], value)
        else:
            raise SettingsError(f"unknown setting {where}")


def _take_broker_table(path: Path, prefix: str, table: Mapping[str, Any], broker: dict[str, str]) -> None:
    """A name with dots that was not quoted comes as nested tables: `num.partitions = 4`."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            _take_broker_table(path, f"{name}.", value, broker)
        elif isinstance(value, bool):
            broker[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            broker[name] = str(value)
        elif isinstance(value, list) and all(isinstance(item, str | int) for item in value):
            broker[name] = ",".join(map(str, value))
        else:
            raise SettingsError(f"broker.{name} in {path} is neither a text nor a number")


def _take_environment(
    environment: Mapping[str, str], values: dict[str, Any], broker: dict[str, str], storage: dict[str, int]
) -> None:
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if name in _FIELDS:
            values[name] = _parsed(variable, _FIELDS[name], value)
        elif name.startswith("broker_"):
            broker[name.removeprefix("broker_").replace("_", ".")] = value
        elif name.startswith("storage_"):
            key = name.removeprefix("storage_")
            if key not in _STORAGE_FIELDS:
                raise SettingsError(f"unknown setting {variable}")
            storage[key] = _parsed(variable, _storage_value, value)


def _parsed(where: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise SettingsError(f"{where}: {value!r} {error}") from None
