"""Object stores by URL: `open_store`. The interface is `s3stream.objectstore.api`."""

from __future__ import annotations

from s3stream.objectstore.api import ObjectStore, StoreError, StoreUnreachable
from s3stream.objectstore.opening import open_store

__all__ = ["ObjectStore", "StoreError", "StoreUnreachable", "open_store"]
