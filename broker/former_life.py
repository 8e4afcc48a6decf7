"""Whether the process that this node ran last has ended: a lock in its data dir, held for as long as a process lives.

The file `process` holds `{"epoch": EPOCH, "machine": MACHINE, "inode": INODE}`: the broker epoch that the process which
has the lock, or had it last, registered under. So nobody has to wait for its lease where its log has no lock, as one of
objects. As with the lock of a log, a free one says something only on the machine where that process ran, and nothing
in a copy of the directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path

from broker.lease import lease_clock
from wal.file.machine import this_machine

FILE = "process"
LOCK_WAIT_S = 1.0
"""How long a process that was killed may take to let go."""
LOCK_CHECK_S = 0.02
_SIZE_MAX = 200


class ProcessLock:
    """`ended_epoch`: the broker epoch of the process before, which has provably ended; None: nothing is known."""

    def __init__(self, fd: int | None, ended_epoch: int | None) -> None:
        self._fd = fd
        self.ended_epoch = ended_epoch

    def name(self, epoch: int) -> None:
        """This process has registered under `epoch`. Not synced: the machine is another one after its next start."""
        if self._fd is not None:
            process = {"epoch": epoch, "machine": this_machine(), "inode": os.fstat(self._fd).st_ino}
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(process).encode(), 0)

    def close(self) -> None:
        """When nothing of this process can be acknowledged any more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


async def lock_process(data_dir: Path) -> ProcessLock:
    """Where there is no lock to be had nothing is known, and nobody learns of this process."""
    try:
        fd = os.open(data_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:
        return ProcessLock(None, None)
    try:
        if await _lock(fd):
            return ProcessLock(fd, _ended_epoch(fd))
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return ProcessLock(None, None)


async def _lock(fd: int) -> bool:
    deadline = lease_clock() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if lease_clock() > deadline:
                return False
        except OSError:
            # a file system without locks
            return False
        else:
            return True
        await asyncio.sleep(LOCK_CHECK_S)


def _ended_epoch(fd: int) -> int | None:
    try:
        process = json.loads(os.pread(fd, _SIZE_MAX, 0))
        is_it = (process["machine"], process["inode"]) == (this_machine(), os.fstat(fd).st_ino)
        return int(process["epoch"]) if is_it else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
