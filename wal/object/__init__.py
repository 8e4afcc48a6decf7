"""The object WAL: a log without a disk. `format`: what lies in the store; `recovery`: how it is taken over."""

from __future__ import annotations

from wal.object.log import ObjectWal, ObjectWalSettings
from wal.object.recovery import ObjectRecoverableWal, fence_object_wal, open_object_wal

__all__ = ["ObjectRecoverableWal", "ObjectWal", "ObjectWalSettings", "fence_object_wal", "open_object_wal"]
