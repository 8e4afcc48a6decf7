"""`Reply`: the answer of one request to a coordinator, which leaves later or is refused; and several of them as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        return self.response if self.done else self


class Gathered(Deferred):
    """Completes with `combine(responses)`, in the order of the parts, once all of them have answered."""

    __slots__ = ("_combine", "_missing_count", "_parts")

    def __init__(self, parts: Sequence[Deferred], combine: Callable[[list[Any]], Any]) -> None:
        super().__init__()
        self._parts = parts
        self._combine = combine
        self._missing_count = 1
        for part in parts:
            if not part.done:
                self._missing_count += 1
                part.on_complete = self._part_done
        self._part_done(self)

    def _part_done(self, _: Deferred) -> None:
        self._missing_count -= 1
        if not self._missing_count:
            self.complete(self._combine([part.response for part in self._parts]))
