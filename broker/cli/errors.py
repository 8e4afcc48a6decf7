"""The error that ends a command with one line."""

from __future__ import annotations


class CommandError(Exception):
    """What went wrong and what to do about it, in one line."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
