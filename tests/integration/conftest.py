"""One S3 server and one PostgreSQL for all of these tests."""

from __future__ import annotations

from .postgres import postgres_server, postgres_url
from .seaweedfs import s3_url, seaweedfs

__all__ = ["postgres_server", "postgres_url", "s3_url", "seaweedfs"]
