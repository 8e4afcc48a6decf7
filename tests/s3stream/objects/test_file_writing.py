"""A written file holds exactly the pieces, whatever their sizes and whichever way the file system takes them."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from s3stream.objectstore import file_writing
from s3stream.objectstore.file_writing import ALIGNMENT, DIRECT_SIZE_MIN, write_synced

MIB = 1 << 20
SIZES = [0, 1, DIRECT_SIZE_MIN - 1, DIRECT_SIZE_MIN, DIRECT_SIZE_MIN + 1, 4 * MIB, 4 * MIB + ALIGNMENT + 3, 9 * MIB - 1]


def cut(content: bytes, seed: int) -> list[memoryview]:
    """The content in pieces of one byte to 100 KB."""
    chance = random.Random(seed)
    pieces, position = [], 0
    while position < len(content):
        size = chance.choice((1, 100, 4095, 4096, 100_000))
        pieces.append(memoryview(content)[position : position + size])
        position += size
    return pieces


@pytest.mark.parametrize("size", SIZES)
def test_the_content_is_the_pieces(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    write_synced(str(tmp_path / "object"), cut(content, size))
    assert (tmp_path / "object").read_bytes() == content


def test_a_file_system_without_direct_writes_is_written_the_ordinary_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(fd: int, pieces: object, size: int) -> None:
        tried.append(size)
        raise OSError(errno.EINVAL, "no direct writes")

    if not file_writing._O_DIRECT:
        pytest.skip("this system has no O_DIRECT")
    monkeypatch.setattr(file_writing, "_write_direct", refuse)
    content = random.Random(1).randbytes(2 * MIB)
    write_synced(str(tmp_path / "object"), cut(content, 1))
    assert tried == [2 * MIB]
    assert (tmp_path / "object").read_bytes() == content


def test_a_full_disk_is_an_error_and_not_a_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, pieces: object, *size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(file_writing, "_write_direct", full)
    monkeypatch.setattr(file_writing, "_write_buffered", full)
    with pytest.raises(OSError, match="no space"):
        write_synced(str(tmp_path / "object"), [bytes(MIB)])
