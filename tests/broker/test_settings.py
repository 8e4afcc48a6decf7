"""Where settings come from, which source wins, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.settings import Address, SettingsError, load_settings, parse_address


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "tailrace.toml"


def test_defaults_serve_on_loopback_with_everything_under_the_data_dir() -> None:
    settings = load_settings({}, {}, None)
    data = Path("data").absolute()
    assert settings.listen == Address("127.0.0.1", 9092)
    assert settings.node_id == 1
    assert settings.objects_url == f"file://{data}/objects"
    assert settings.metadata_url == f"sqlite:///{data}/catalog.db"
    assert settings.wal_url == f"file://{data}/wal"


def test_flags_win_over_environment_over_file_over_defaults(config_file: Path) -> None:
    config_file.write_text('node_id = 2\nlisten = "h:2"\nrack = "file"\n')
    environment = {"TAILRACE_NODE_ID": "3", "TAILRACE_LISTEN": "h:3"}
    settings = load_settings({"node_id": "4", "listen": None}, environment, config_file)
    assert (settings.node_id, settings.listen.port, settings.rack, settings.lease_ms) == (4, 3, "file", 10_000)


def test_the_file_may_be_named_by_the_environment(config_file: Path) -> None:
    config_file.write_text("node_id = 2\n")
    assert load_settings({}, {"TAILRACE_CONFIG": str(config_file)}, None).node_id == 2


def test_broker_configs_keep_kafkas_names_in_file_and_environment(config_file: Path) -> None:
    config_file.write_text(
        '[broker]\n"num.partitions" = 4\nlog.retention.ms = 1000\n"auto.create.topics.enable" = false\n'
        '"log.cleanup.policy" = ["compact", "delete"]\n'
    )
    settings = load_settings({}, {"TAILRACE_BROKER_NUM_PARTITIONS": "6"}, config_file)
    assert settings.broker == {
        "num.partitions": "6",
        "log.retention.ms": "1000",
        "auto.create.topics.enable": "false",
        "log.cleanup.policy": "compact,delete",
    }


def test_storage_limits_come_from_file_and_environment(config_file: Path) -> None:
    config_file.write_text("[storage]\nupload_interval_ms = 200\n")
    settings = load_settings({}, {"TAILRACE_STORAGE_UPLOADS_IN_FLIGHT_MAX": "5"}, config_file)
    assert settings.storage.upload_interval_ms == 200
    assert settings.storage.uploads_in_flight_max == 5


def test_unknown_environment_variables_are_left_alone() -> None:
    load_settings({}, {"TAILRACE_PORT": "tcp://10.0.0.1:9092", "TAILRACE_SERVICE_HOST": "10.0.0.1"}, None)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("colour = 1", "unknown setting colour"),
        ("node_id = -1", "node_id"),
        ("node_id = true", "node_id"),
        ('listen = "9092"', "HOST:PORT"),
        ('log_level = "loud"', "debug, info"),
        ("[storage]\nblock = 1", "storage.block"),
        ("[storage]\nblock_size = 0", "storage.block_size"),
        ("[storage]\npressure_low_size = 999999999999", "pressure_low_size"),
        ("[broker]\nx = 2020-01-01", "broker.x"),
        ("node_id = = 1", "not a TOML file"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(config_file: Path, toml: str, words: str) -> None:
    config_file.write_text(toml)
    with pytest.raises(SettingsError) as raised:
        load_settings({}, {}, config_file)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings({}, {}, tmp_path / "none.toml")


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^TAILRACE_NODE_ID: 'x' is not a number"):
        load_settings({}, {"TAILRACE_NODE_ID": "x"}, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [("localhost:1", ("localhost", 1)), ("[::1]:9092", ("::1", 9092)), ("0.0.0.0:0", ("0.0.0.0", 0))],
)
def test_addresses_are_read_and_printed_alike(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:x", "host:70000", "::1:9092", "host:-1", "host:\u0661"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|65535"):
        parse_address(text)
