"""Whose log a directory holds: the file `owner`, written when the log is made, never changed.

    0   8s   magic "TRWALOWN"
    8   u32  version (1)
    12  u32  CRC of bytes 16-79
    16  64s  owner, UTF-8, padded with zeros

Epochs and stream ids are small numbers in every cluster, so they do not tell one cluster's log from another's. A log
without this file was made before there was one: it belongs to whoever opens it.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from wal.api import WalCorrupt, WalForeign
from wal.file.files import Files

OWNER_NAME = "owner"
VERSION = 1
OWNER_SIZE_MAX = 64
_NEW_NAME = "owner.new"
_LAYOUT = struct.Struct("<8sII64s")
_MAGIC = b"TRWALOWN"


def encode_owner(owner: str) -> bytes:
    padded = owner.encode().ljust(OWNER_SIZE_MAX, b"\0")
    if len(padded) > OWNER_SIZE_MAX:
        raise ValueError(f"an owner has {OWNER_SIZE_MAX} bytes at most: {owner!r}")
    return _LAYOUT.pack(_MAGIC, VERSION, crc32c(padded), padded)


def decode_owner(data: bytes) -> str:
    """Raises ValueError."""
    if len(data) != _LAYOUT.size:
        raise ValueError("size")
    magic, version, checksum, padded = _LAYOUT.unpack(data)
    if magic != _MAGIC or version != VERSION or crc32c(padded) != checksum:
        raise ValueError("magic, version or checksum")
    return str(padded.rstrip(b"\0").decode())


def check_owner(files: Files, owner: str | None) -> bool:
    """Whether the log says that it is the owner's; False if it does not say (or None asks).

    Raises WalForeign, WalCorrupt, OSError.
    """
    if owner is None or OWNER_NAME not in files.names():
        return False
    file = files.open(OWNER_NAME)
    try:
        found = decode_owner(file.read(0, _LAYOUT.size))
    except ValueError as error:
        raise WalCorrupt(f"{files.path}/{OWNER_NAME} is damaged: {error}") from None
    finally:
        file.close()
    if found != owner:
        raise WalForeign(f"the log in {files.path} belongs to cluster {found}, not to {owner}: use another directory")
    return True


def claim(files: Files, owner: str | None) -> None:
    """Make the log the owner's, unless it is. Raises WalForeign, WalCorrupt, OSError."""
    if owner is None or check_owner(files, owner):
        return
    if _NEW_NAME in files.names():
        files.remove(_NEW_NAME)
    data = encode_owner(owner)
    file = files.create(_NEW_NAME, len(data), fill=False)
    try:
        file.write([data], 0)
    finally:
        file.close()
    files.rename(_NEW_NAME, OWNER_NAME)
    files.sync()
