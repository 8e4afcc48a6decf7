"""Bringing a file's content to stable storage, on every system.

macOS's `fsync` hands data to the drive, which may keep it in its cache: only F_FULLFSYNC makes it durable there, where
the file system knows it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

_FULL_FSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_NOT_KNOWN = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY})


def sync_data(fd: int) -> None:
    """The content, and of the metadata what is needed to read it. Raises OSError."""
    if sys.platform == "darwin":
        sync_file(fd)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_file(fd: int) -> None:
    """The content and all metadata. Raises OSError."""
    if sys.platform == "darwin" and _FULL_FSYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_FSYNC)
            return
        except OSError as error:
            if error.errno not in _NOT_KNOWN:
                raise
    os.fsync(fd)
