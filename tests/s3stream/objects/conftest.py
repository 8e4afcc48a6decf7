"""A real S3 server for the integration tests of this folder."""

from tests.integration.seaweedfs import s3_url, seaweedfs

__all__ = ["s3_url", "seaweedfs"]
