"""`tailrace serve` as a process: starts, stops, and what it says when it cannot."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.broker_process import BrokerFailed, BrokerProcess
from bench.raw_load import read_frame
from tests.broker.hostile.mutation import batch

from .raw_client import produce_frame

pytestmark = pytest.mark.integration


def tailrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def serve_fails(tmp_path: Path, *arguments: str) -> str:
    """What `serve` says when it ends at once: one line on standard error, beside log lines."""
    result = tailrace("serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), *arguments)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("tailrace:")]
    return line


def test_topics_survive_a_graceful_restart_and_a_kill(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        created = tailrace("topics", "create", "orders", "--partitions", "3", "--bootstrap", broker.address)
        assert created.returncode == 0, created.stderr
        port, cluster_id = broker.port, broker.cluster_id
        assert broker.terminate() == 0
        broker.start()
        broker.kill()
        broker.start()
        assert (broker.port, broker.cluster_id) == (port, cluster_id)
        listed = tailrace("topics", "list", "--json", "--bootstrap", broker.address)
        assert json.loads(listed.stdout) == [{"topic": "orders", "partitions": 3, "replication_factor": 1}]
        described = tailrace("topics", "describe", "orders", "--bootstrap", broker.address)
        assert [line.split("\t")[-2:] for line in described.stdout.splitlines()] == [["0", "0"]] * 3
        deleted = tailrace("topics", "delete", "orders", "--bootstrap", broker.address)
        assert deleted.returncode == 0
        missing = tailrace("topics", "describe", "orders", "--bootstrap", broker.address)
        assert missing.returncode == 1
        assert missing.stderr.count("\n") == 1


def test_sigint_ends_it_as_sigterm_does(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        assert broker.end(signal.SIGINT) == 0


def test_another_node_goes_on_with_the_same_objects_and_catalog(tmp_path: Path) -> None:
    shared = [
        *("--objects", (tmp_path / "objects").as_uri()),
        *("--metadata", f"sqlite:///{tmp_path / 'catalog.db'}"),
    ]
    with BrokerProcess(tmp_path / "one", node_id=1, args=shared) as first:
        tailrace("topics", "create", "orders", "--partitions", "2", "--bootstrap", first.address)
        first.terminate()
    with BrokerProcess(tmp_path / "two", node_id=2, args=shared) as second:
        described = tailrace("topics", "describe", "orders", "--json", "--bootstrap", second.address)
        assert [row["leader"] for row in json.loads(described.stdout)] == [2, 2]


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in serve_fails(tmp_path, "--listen", f"127.0.0.1:{port}")


def test_a_second_broker_on_the_same_data_dir_is_one_line(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data"):
        assert "in use" in serve_fails(tmp_path)


def test_a_data_dir_of_another_node_cluster_or_format_is_one_line(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        broker.terminate()
    assert "belongs to node 1" in serve_fails(tmp_path, "--node-id", "2")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert "objects belong to cluster" in serve_fails(tmp_path, "--metadata", other)
    elsewhere = ["--metadata", other, "--objects", f"file://{tmp_path / 'objects'}"]
    assert "belongs to cluster" in serve_fails(tmp_path, *elsewhere)
    (tmp_path / "data" / "meta.json").write_text('{"format": 99}')
    assert "newer" in serve_fails(tmp_path)


def test_a_write_ahead_log_of_another_cluster_is_one_line_and_keeps_its_records(tmp_path: Path) -> None:
    wal = ("--wal", (tmp_path / "wal").as_uri())
    never_uploads = {"TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "3600000"}
    with BrokerProcess(tmp_path / "theirs", args=wal, env=never_uploads) as broker:
        tailrace("topics", "create", "orders", "--bootstrap", broker.address)
        produced = produce_frame("orders", batch())
        with socket.create_connection((broker.host, broker.port)) as connection:
            connection.sendall(produced)
            read_frame(connection)
        broker.kill()
        assert f"belongs to cluster {broker.cluster_id}" in serve_fails(tmp_path, *wal)
        broker.start()
        described = tailrace("topics", "describe", "orders", "--json", "--bootstrap", broker.address)
        assert json.loads(described.stdout)[0]["end_offset"] == 3


@pytest.mark.parametrize(
    ("flag", "url"),
    [
        ("--metadata", "postgresql://user:secret@127.0.0.1:1/none"),
        ("--metadata", "mysql://host/db"),
        ("--metadata", "sqlite:////dev/null/catalog.db"),
        ("--objects", "s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1&key=secret"),
        ("--objects", "s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1"),
        ("--objects", "ftp://host/dir"),
        ("--wal", "ftp://host/dir"),
    ],
)
def test_an_unusable_url_is_one_line_without_secrets(
    tmp_path: Path, flag: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    line = serve_fails(tmp_path, flag, url)
    assert "secret" not in line


def test_an_unknown_broker_config_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "tailrace.toml"
    config.write_text('[broker]\n"num.partitons" = 4\n')
    assert "num.partitons" in serve_fails(tmp_path, "--config", str(config))


def test_a_failed_start_leaves_the_wal_free_for_the_next(tmp_path: Path) -> None:
    serve_fails(tmp_path, "--objects", "ftp://host/dir")
    with BrokerProcess(tmp_path / "data") as broker:
        assert broker.terminate() == 0


def test_the_fixture_reports_why_a_broker_did_not_start(tmp_path: Path) -> None:
    with pytest.raises(BrokerFailed, match="ftp"):
        BrokerProcess(tmp_path / "data", args=["--objects", "ftp://host/dir"]).start()


def test_another_broker_takes_over_what_a_killed_one_had_only_in_its_wal(tmp_path: Path) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    shared = [
        *("--objects", (tmp_path / "objects").as_uri()),
        *("--metadata", f"sqlite:///{tmp_path / 'catalog.db'}"),
    ]
    never_uploads = {"TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "3600000"}
    with BrokerProcess(tmp_path / "one", node_id=1, args=shared, env=never_uploads) as first:
        producer = confluent_kafka.Producer({"bootstrap.servers": first.address, "enable.idempotence": True})
        for number in range(500):
            producer.produce("orders", str(number).encode())
        assert producer.flush(20) == 0
        first.kill()
        with BrokerProcess(tmp_path / "two", node_id=2, args=shared) as second:
            described = tailrace("topics", "describe", "orders", "--json", "--bootstrap", second.address)
            (partition,) = json.loads(described.stdout)
            assert (partition["leader"], partition["end_offset"]) == (2, 500)
