"""How the settings of one command become those of several brokers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from broker.local_cluster import Node, Supervisor, broker_settings
from broker.settings import SettingsError, load_settings


def test_ids_and_ports_count_up_and_only_logs_and_directories_are_their_own(tmp_path: Path) -> None:
    flags = {"brokers": "3", "listen": "0.0.0.0:9092", "advertised": "kafka.example:9192", "data_dir": str(tmp_path)}
    shares = broker_settings(load_settings(flags, {}, None))
    assert [each.node_id for each in shares] == [1, 2, 3]
    assert [each.listen.port for each in shares] == [9092, 9093, 9094]
    assert [str(each.advertised) for each in shares] == [f"kafka.example:{port}" for port in (9192, 9193, 9194)]
    assert [each.data_dir for each in shares] == [tmp_path / f"node-{node_id}" for node_id in (1, 2, 3)]
    assert len({each.wal_url for each in shares}) == 3
    assert {each.metadata_url for each in shares} == {f"sqlite:///{tmp_path}/catalog.db"}
    assert {each.objects_url for each in shares} == {f"file://{tmp_path}/objects"}


def test_free_ports_stay_free_ones() -> None:
    shares = broker_settings(load_settings({"brokers": "2", "listen": "127.0.0.1:0"}, {}, None))
    assert [each.listen.port for each in shares] == [0, 0]


@pytest.mark.parametrize(
    ("wal", "of_node_2"),
    [
        ("s3://bucket/wal?endpoint=http://127.0.0.1:9000", "s3://bucket/wal/node-2?endpoint=http://127.0.0.1:9000"),
        ("object+file:///logs/", "object+file:///logs/node-2"),
    ],
)
def test_a_given_log_is_divided_below_its_address(wal: str, of_node_2: str) -> None:
    assert broker_settings(load_settings({"brokers": "2", "wal": wal}, {}, None))[1].wal_url == of_node_2


@pytest.mark.parametrize("flags", [{"listen": "127.0.0.1:65534"}, {"node_id": str(2**31 - 2)}])
def test_more_brokers_than_there_is_room_for_are_refused(flags: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="--brokers"):
        broker_settings(load_settings({"brokers": "3", **flags}, {}, None))


def test_the_number_comes_from_the_environment_and_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "tailrace.toml"
    file.write_text("brokers = 2\n")
    assert load_settings({}, {}, file).brokers == 2
    assert load_settings({}, {"TAILRACE_BROKERS": "4"}, file).brokers == 4


def test_a_stop_while_brokers_are_started_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {each.node_id: Node(each) for each in broker_settings(load_settings({"brokers": "3"}, {}, None))}
    supervisor = Supervisor(nodes)
    started = []

    def start(self: Supervisor, node: Node) -> None:
        started.append(node.settings.node_id)
        supervisor._signalled(signal.SIGTERM, None)

    monkeypatch.setattr(Supervisor, "_start", start)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda end: -1)
    assert supervisor.run() == 0
    assert started == [1]
