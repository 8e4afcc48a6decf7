"""A data dir belongs to one node of one cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from broker.data_dir import META_FILE, DataDirError, check_data_dir, claim_data_dir, prepare_data_dir
from wal import open_wal


def test_a_fresh_directory_is_claimed_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    prepare_data_dir(path)
    check_data_dir(path, 1)
    claim_data_dir(path, "cluster", 1)
    check_data_dir(path, 1)
    claim_data_dir(path, "cluster", 1)
    assert json.loads((path / META_FILE).read_text()) == {"format": 1, "cluster": "cluster", "node": 1}


def test_another_node_and_another_cluster_are_refused(tmp_path: Path) -> None:
    claim_data_dir(tmp_path, "cluster", 1)
    with pytest.raises(DataDirError, match="belongs to node 1, not to node 2"):
        check_data_dir(tmp_path, 2)
    with pytest.raises(DataDirError, match="belongs to cluster cluster"):
        claim_data_dir(tmp_path, "other", 1)


def test_a_newer_format_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    (tmp_path / META_FILE).write_text('{"format": 2, "realm": 5}')
    with pytest.raises(DataDirError, match="newer tailrace"):
        check_data_dir(tmp_path, 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": "x"}', '{"format": 1}', "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / META_FILE).write_text(text)
    with pytest.raises(DataDirError, match="not a file of tailrace"):
        check_data_dir(tmp_path, 1)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="cannot make the data dir"):
        prepare_data_dir(tmp_path / "data")


async def test_a_fresh_data_dir_and_its_log_have_durable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    prepare_data_dir(tmp_path / "a" / "b")
    wal = await open_wal((tmp_path / "a" / "b" / "c" / "wal").as_uri(), epoch=1, segment_size=1 << 20)
    await wal.close()
    for made_in in ("", "a", "a/b", "a/b/c", "a/b/c/wal"):
        assert (tmp_path / made_in).stat().st_ino in synced, made_in
