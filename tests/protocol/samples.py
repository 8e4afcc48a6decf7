"""One message per class and version in which every field is set to something that is not its default."""

from __future__ import annotations

from typing import Any

from protocol.compiler.layout import FieldLayout, StructLayout, message_layout
from protocol.types import Message

_VALUES = {
    "bool": True,
    "bytes": b"\x01\x02\x03",
    "float64": 0.5,
    "int16": 7,
    "int32": 77,
    "int64": 777,
    "int8": 3,
    "records": b"\x00" * 70,
    "string": "name",
    "uint16": 9092,
    "uuid": bytes(range(16)),
}


def full_message(cls: type[Message], version: int) -> Any:
    return _struct(message_layout(cls, version))


def _struct(layout: StructLayout) -> Any:
    return layout.cls(**{each.name: _value(each) for each in layout.plain + layout.tagged})  # type: ignore[call-arg]


def _value(each: FieldLayout) -> Any:
    element = _VALUES[each.type] if each.struct is None else _struct(each.struct)
    return [element, element] if each.array else element
