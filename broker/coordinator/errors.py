"""The one error of coordinators: a refusal that carries Kafka's code for it."""

from __future__ import annotations

from protocol.errors import ErrorCode


class CoordinatorError(Exception):
    """An operation is refused. It has changed nothing."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
