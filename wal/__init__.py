"""Write-ahead logs. The interface is `wal.api`; `open_wal` and `fence_wal` choose an implementation by URL.

`file:///dir` is the local disk (`wal.file`), `memory://name` its twin for tests of what lies above (`wal.memory`).
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from wal.api import RecoverableWal, Wal, WalError, WalUnreachable

__all__ = ["fence_wal", "open_wal", "read_wal"]


async def open_wal(
    url: str, *, epoch: int, owner: str | None = None, segment_size: int | None = None, size_max: int | None = None
) -> Wal:
    """Lock the log at `url`, making it if there is none, and append under `epoch` (never less than the last one).

    `owner` (the cluster's id) is written into a log that does not name one; a log of somebody else is refused.
    `segment_size` and `size_max` (bytes on disk, all segments together): see `wal.file.opening.FileWalSettings`.
    Raises WalLocked, WalNotRecovered (use `fence_wal` first), WalCorrupt, WalUnreachable, WalFull,
    WalForeign.
    """
    scheme, name = _split(url)
    if scheme == "memory":
        from wal.memory import MemoryWal

        return MemoryWal.open(name, epoch, owner)
    from wal.file.log import open_file_wal
    from wal.file.opening import FileWalSettings

    settings = FileWalSettings()
    if segment_size is not None:
        settings = settings.replace(segment_size=segment_size)
    if size_max is not None:
        settings = settings.replace(size_max=size_max)
    return await open_file_wal(name, epoch, settings, owner=owner)


async def fence_wal(url: str, *, owner: str | None = None) -> RecoverableWal:
    """Take the lock of this node's own log, to recover and empty it. Nobody else gets it as long as the result is open.

    Raises WalLocked while the owner lives, WalUnreachable if no log is there (an empty directory is not an empty log: a
    volume may be missing), WalCorrupt, WalForeign if it names another owner.
    """
    scheme, name = _split(url)
    if scheme == "memory":
        from wal.memory import MemoryRecoverableWal

        return MemoryRecoverableWal.fence(name, owner)
    from wal.file.recovery import fence_file_wal

    return await fence_file_wal(name, owner)


async def read_wal(url: str, *, owner: str | None = None) -> RecoverableWal:
    """Another node's log, without its lock: it is not changed, whatever becomes of it meanwhile.

    The result's `owner_is_out` says whether its lock was free, on a machine where that means something. Raises
    WalUnreachable, WalCorrupt, WalForeign as `fence_wal`.
    """
    scheme, name = _split(url)
    if scheme == "memory":
        from wal.memory import MemoryLogReadAlong

        return MemoryLogReadAlong.open(name, owner)
    from wal.file.reading_along import read_file_wal

    return await read_file_wal(name, owner)


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return "file", unquote(parts.path)
    if parts.scheme == "memory":
        return "memory", parts.netloc + parts.path
    if parts.scheme in ("file", ""):
        raise WalUnreachable(f"not a usable WAL address: {url!r} (a local log is written file:///directory)")
    raise WalError(f"no write-ahead log for {parts.scheme}:// (known: file, memory)")
