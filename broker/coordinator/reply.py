"""`Reply`: the answer of one request to a coordinator, which leaves later or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.request import Deferred
from protocol.errors import ErrorCode


class Reply(Deferred):
    """`refusal` makes the response that carries an error, so that whoever fails a request need not know its API."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: Callable[[ErrorCode], Any]) -> None:
        super().__init__()
        self.refusal = refusal

    def refuse(self, code: ErrorCode) -> None:
        self.complete(self.refusal(code))

    def settled(self) -> Any:
        """What a handler returns: the response if it is there already, else this."""
        return self if self.response is None else self.response
