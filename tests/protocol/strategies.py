"""Hypothesis strategies for messages, generated from their field tables."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import protocol.messages.records as record_modules
from protocol.api_keys import BROKER_APIS
from protocol.codec import request_class, response_class
from protocol.compiler.layout import FieldLayout, StructLayout, message_layout
from protocol.errors import ErrorCode
from protocol.types import Message

_INT_BOUNDS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
_TIME_MAX_MS = 1 << 41

BOUNDED = settings(
    max_examples=3,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""For properties that are checked for each message and version: a few examples each."""


def all_requests() -> list[tuple[type[Message], int]]:
    return [(cls, v) for key in sorted(BROKER_APIS) for cls in (request_class(key),) for v in _versions(cls)]


def all_responses() -> list[tuple[type[Message], int]]:
    return [(cls, v) for key in sorted(BROKER_APIS) for cls in (response_class(key),) for v in _versions(cls)]


def all_record_messages() -> list[tuple[type[Message], int]]:
    found = []
    for module in pkgutil.iter_modules(record_modules.__path__):
        loaded = importlib.import_module(f"{record_modules.__name__}.{module.name}")
        found += [
            (cls, version)
            for cls in vars(loaded).values()
            if isinstance(cls, type) and issubclass(cls, Message) and cls.__module__ == loaded.__name__
            for version in _versions(cls)
        ]
    return found


def _versions(cls: type[Message]) -> range:
    first, last = cls.VERSIONS
    return range(first, last + 1)


@cache
def messages(cls: type[Message], version: int) -> st.SearchStrategy[Any]:
    """Messages whose fields that exist in `version` are arbitrary, and the others at their defaults."""
    return _structs(message_layout(cls, version))


def _structs(layout: StructLayout) -> st.SearchStrategy[Any]:
    return st.builds(layout.cls, **{each.name: _values(each) for each in layout.plain + layout.tagged})


def _values(each: FieldLayout) -> st.SearchStrategy[Any]:
    strategy = _elements(each)
    if each.array:
        strategy = st.lists(strategy, max_size=2)
    return st.none() | strategy if each.nullable else strategy


def _elements(each: FieldLayout) -> st.SearchStrategy[Any]:
    if each.struct is not None:
        return _structs(each.struct)
    if each.type == "string":
        return st.sampled_from(["", "a", "Grüße", "topic-1", "\U0001f40d" * 40])
    if each.type in ("bytes", "records"):
        return st.binary(max_size=200)
    if each.type == "uuid":
        return st.binary(min_size=16, max_size=16) | st.just(bytes(16))
    if each.type == "bool":
        return st.booleans()
    if each.type == "float64":
        return st.floats(allow_nan=False)
    if each.type == "uint16":
        return st.integers(0, 0xFFFF)
    if each.name == "error_code" or each.name.endswith("_error_code"):
        return st.sampled_from([int(code) for code in ErrorCode])
    if each.type == "int64" and ("time" in each.name or each.name.endswith("_ms")):
        # kio has dates and durations where Kafka has numbers, which bounds them.
        return st.integers(0, _TIME_MAX_MS)
    bound = 1 << _INT_BOUNDS[each.type]
    return st.integers(-bound, bound - 1)
