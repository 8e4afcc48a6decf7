"""A process that has ended is known by its lock; nothing else is taken for one."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from broker import former_life
from broker.former_life import FILE, lock_process

_LIVES = """
import asyncio, sys, time
from pathlib import Path
from broker.former_life import lock_process

process = asyncio.run(lock_process(Path(sys.argv[1])))
process.name(7)
print("named", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_life, "LOCK_WAIT_S", 0.05)


async def ended_epoch(path: Path) -> int | None:
    process = await lock_process(path)
    process.close()
    return process.ended_epoch


async def lived(path: Path, epoch: int = 7) -> None:
    process = await lock_process(path)
    process.name(epoch)
    process.close()


async def test_who_was_killed_has_ended_and_who_lives_has_not(tmp_path: Path) -> None:
    living = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LIVES, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert living.stdout is not None
        assert await living.stdout.readline()
        assert await ended_epoch(tmp_path) is None
    finally:
        living.kill()
        await living.wait()
    assert await ended_epoch(tmp_path) == 7


async def test_one_that_ended_before_it_was_registered_is_not_taken_for_another(tmp_path: Path) -> None:
    assert await ended_epoch(tmp_path) is None
    await lived(tmp_path, 1_234_567)
    assert await ended_epoch(tmp_path) == 1_234_567
    await lived(tmp_path, 8)
    assert await ended_epoch(tmp_path) == 8


async def test_a_process_that_goes_on_while_another_one_starts_is_awaited_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_life, "LOCK_WAIT_S", 10.0)
    former = await lock_process(tmp_path)
    former.name(7)
    asyncio.get_running_loop().call_later(0.05, former.close)
    assert await ended_epoch(tmp_path) == 7


async def test_a_free_lock_of_another_machine_or_of_a_copy_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    await lived(original)
    shutil.copytree(original, copy)
    assert await ended_epoch(copy) is None
    monkeypatch.setattr(former_life, "this_machine", lambda: 5)
    assert await ended_epoch(original) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"epoch": 7}', b"\xff" * 300])
async def test_a_file_that_makes_no_sense_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert await ended_epoch(tmp_path) is None


async def test_where_there_is_no_lock_to_be_had_nobody_is_named(tmp_path: Path) -> None:
    holder = await lock_process(tmp_path)
    holder.name(7)
    second = await lock_process(tmp_path)
    second.name(8)
    second.close()
    holder.close()
    assert await ended_epoch(tmp_path) == 7
    assert await ended_epoch(tmp_path / "missing") is None
