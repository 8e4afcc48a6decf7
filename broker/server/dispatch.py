"""From an API key to its handler: the table that connections look requests up in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CoroutineType, ModuleType
from typing import Any

from broker.request import Deferred
from protocol.api_keys import ApiKey
from protocol.codec import response_class
from protocol.errors import ErrorCode
from protocol.private_keys import api_name, is_private
from protocol.types import has_field

LONG_POLLS = frozenset({ApiKey.FETCH, ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP})
"""Their waiting is part of the API: a graceful stop does not wait for them."""

ABANDONED_WITH_CLIENT = frozenset({ApiKey.FETCH, ApiKey.LIST_OFFSETS})
"""APIs that only read: their tasks are cancelled when the client is gone. All others run to their end, because a
half-made change (a topic in the catalog whose partitions are not open) helps nobody."""


class Api:
    """One served API."""

    __slots__ = (
        "_response_class",
        "handle",
        "is_abandoned_with_client",
        "is_long_poll",
        "is_produce",
        "key",
        "max_version",
        "min_version",
        "name",
    )

    def __init__(self, key: int, min_version: int, max_version: int, handle: Callable[..., Any]) -> None:
        self.key = key
        self.name = api_name(key) or str(key)
        self.min_version = min_version
        self.max_version = max_version
        self.handle = handle
        self.is_produce = key == ApiKey.PRODUCE
        self.is_long_poll = key in LONG_POLLS
        self.is_abandoned_with_client = key in ABANDONED_WITH_CLIENT
        self._response_class: Any = response_class(key)

    def unsupported_version_response(self) -> Any:
        """UNSUPPORTED_VERSION, to be encoded as the first version; None where clients would not understand it."""
        return self._response_class(error_code=ErrorCode.UNSUPPORTED_VERSION) if is_private(self.key) else None

    def failure_response(self, version: int) -> Any:
        """UNKNOWN_SERVER_ERROR, or None where this version has no error code of its own to say it with."""
        if not has_field(self._response_class, "error_code", version):
            return None
        return self._response_class(error_code=ErrorCode.UNKNOWN_SERVER_ERROR)


def api_table(modules: Iterable[ModuleType]) -> dict[int, Api]:
    """Keyed by API key. Raises ValueError for a key that is served twice."""
    table: dict[int, Api] = {}
    for module in modules:
        if module.API_KEY in table:
            raise ValueError(f"two handlers for {module.API_KEY!r}")
        table[module.API_KEY] = Api(module.API_KEY, module.MIN_VERSION, module.MAX_VERSION, module.handle)
    return table


MESSAGE, DEFERRED, AWAITABLE, NOTHING = range(4)
_kinds: dict[type, int] = {type(None): NOTHING, Deferred: DEFERRED, CoroutineType: AWAITABLE}


def result_kind(result: object) -> int:
    """Which of the four things that a handler may return this is."""
    kind = _kinds.get(type(result))
    if kind is None:
        if isinstance(result, Deferred):
            kind = DEFERRED
        else:
            kind = AWAITABLE if hasattr(result, "__await__") else MESSAGE
        _kinds[type(result)] = kind
    return kind
