"""What one version of a message looks like: the field table resolved for that version."""

from __future__ import annotations

import sys
from typing import NamedTuple

from protocol.types import Field, Message, Struct

FIXED_FORMATS = {
    "bool": "?",
    "float64": "d",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "int8": "b",
    "uint16": "H",
    "uuid": "16s",
}
"""`struct` formats of the fixed-size types, big-endian."""

FIXED_SIZES = {"bool": 1, "float64": 8, "int16": 2, "int32": 4, "int64": 8, "int8": 1, "uint16": 2, "uuid": 16}


class FieldLayout(NamedTuple):
    name: str
    type: str
    """A primitive type, or `struct`."""
    array: bool
    nullable: bool
    tag: int
    """-1: in its place among the other fields."""
    default: str | None
    struct: StructLayout | None

    @property
    def defaults_to_null(self) -> bool:
        return self.default == "null" or (self.type == "records" and not self.array)

    def size_min(self, flexible: bool) -> int:
        """Fewest bytes that a value takes."""
        if self.array or self.type in ("bytes", "records"):
            return 1 if flexible else 4
        if self.type == "string":
            return 1 if flexible else 2
        if self.struct is not None:
            return 1 if self.nullable else self.struct.size_min
        return FIXED_SIZES[self.type]


class StructLayout(NamedTuple):
    cls: type[Struct]
    flexible: bool
    plain: tuple[FieldLayout, ...]
    tagged: tuple[FieldLayout, ...]
    """By ascending tag."""
    absent: tuple[FieldLayout, ...]

    @property
    def size_min(self) -> int:
        return sum(each.size_min(self.flexible) for each in self.plain) + self.flexible


def message_layout(cls: type[Message], version: int) -> StructLayout:
    return _struct_layout(cls, version, version >= cls.FLEXIBLE_SINCE)


def _struct_layout(cls: type[Struct], version: int, flexible: bool) -> StructLayout:
    plain, tagged, absent = [], [], []
    for line in cls.FIELDS:
        parsed = Field.parse(line)
        layout = _field_layout(cls, parsed, version, flexible)
        if version not in parsed.versions:
            absent.append(layout)
        elif layout.tag >= 0:
            tagged.append(layout)
        else:
            plain.append(layout)
    tagged.sort(key=lambda each: each.tag)
    return StructLayout(cls, flexible, tuple(plain), tuple(tagged), tuple(absent))


def _field_layout(cls: type[Struct], parsed: Field, version: int, flexible: bool) -> FieldLayout:
    struct = None
    type_ = parsed.type
    if type_[0].isupper():
        struct = _struct_layout(getattr(sys.modules[cls.__module__], type_), version, flexible)
        type_ = "struct"
    return FieldLayout(
        name=parsed.name,
        type=type_,
        array=parsed.array,
        nullable=version in parsed.nullable,
        tag=parsed.tag if version in parsed.tagged else -1,
        default=parsed.default,
        struct=struct,
    )
