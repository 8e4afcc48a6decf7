"""The one error of cluster administration. Its vocabulary is Kafka's, because that is what the caller is told."""

from __future__ import annotations

from protocol.errors import ErrorCode
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError, CatalogUnreachable


class AdminError(Exception):
    """An admin operation was refused. Nothing was changed, unless the code is retriable (then the outcome is open)."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message


def as_admin_error(error: AdminError | CatalogError | StorageError) -> AdminError:
    """What a client is told when catalog or storage failed during an admin operation."""
    if isinstance(error, AdminError):
        return error
    if isinstance(error, CatalogUnreachable):
        return AdminError(ErrorCode.REQUEST_TIMED_OUT, f"The metadata catalog does not answer: {error}")
    if isinstance(error, StorageError):
        return AdminError(ErrorCode.KAFKA_STORAGE_ERROR, str(error))
    return AdminError(ErrorCode.UNKNOWN_SERVER_ERROR, str(error))
