"""Vocabulary of the message tables: the base class of messages, protocol constants, and the field grammar.

A generated message class carries its definition as data. `FIELDS` holds one string per field, in wire order:

    name type versions [null VERSIONS] [tag N VERSIONS] [default VALUE]

`type` is `bool int8 int16 uint16 int32 int64 float64 string bytes records uuid`, the name of a struct of the same
module, or `[]` before one of them. `VERSIONS` is `N`, `N-M`, `N+` or `none`. Codecs are compiled from this table only
(see `protocol.compiler`); a field that is absent from a version decodes to its default and is not written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview
"""What is read from, and what encoders give back in pieces."""

Records = Buffer | list[Buffer] | None
"""A records field: a memoryview when decoded; to encode, one buffer or a list of them, none of which is copied."""

ZERO_UUID = bytes(16)
UNSET: Any = object()
"""Marks a constructor argument that was not given, where the default is a fresh list or struct."""

NEVER_FLEXIBLE = 0x8000
"""`FLEXIBLE_SINCE` of a message without flexible versions: above every int16."""


class KeptList(list[T]):
    """Structs that many messages share, and nobody changes: an array of them is encoded once for each version.

    For arrays without records in them, of which one list is in one kind of array.
    """

    __slots__ = ("encoded",)

    def __init__(self, structs: Iterable[T]) -> None:
        super().__init__(structs)
        self.encoded: dict[int, bytes] = {}
        """By version of the message."""


class Struct:
    """Base of all messages and nested structs: equality and repr by fields."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    FIELDS: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        names = [line.partition(" ")[0] for line in self.FIELDS]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class Message(Struct):
    """A top-level message. `API_KEY` is the record type of a coordinator's values, -1 where there is none."""

    __slots__ = ()
    API_KEY: ClassVar[int] = -1
    VERSIONS: ClassVar[tuple[int, int]]
    FLEXIBLE_SINCE: ClassVar[int] = NEVER_FLEXIBLE


class RecordKey(Message):
    """A coordinator record's key: its record type, `API_KEY`, is what goes before it instead of a version."""

    __slots__ = ()


class Versions(NamedTuple):
    """An inclusive range of versions; empty if last < first."""

    first: int
    last: int

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self.first <= version <= self.last

    @classmethod
    def parse(cls, text: str) -> Versions:
        if text == "none":
            return cls(0, -1)
        first, _, last = text.rstrip("+").partition("-")
        if text.endswith("+"):
            return cls(int(first), NEVER_FLEXIBLE)
        return cls(int(first), int(last or first))


class Field(NamedTuple):
    """One parsed line of a `FIELDS` table."""

    name: str
    type: str
    """Element type if `array`."""
    array: bool
    versions: Versions
    nullable: Versions
    tag: int
    """-1: not tagged."""
    tagged: Versions
    default: str | None
    """As in the definition: `null`, a number, `true`; None is the type's own default."""

    @classmethod
    def parse(cls, line: str) -> Field:
        name, type_, versions, *options = line.split(" ")
        nullable = tagged = Versions(0, -1)
        tag, default = -1, None
        rest = iter(options)
        for option in rest:
            if option == "null":
                nullable = Versions.parse(next(rest))
            elif option == "tag":
                tag, tagged = int(next(rest)), Versions.parse(next(rest))
            elif option == "default":
                default = next(rest)
            else:
                raise ValueError(f"unknown option {option!r} of field {name!r}")
        array = type_.startswith("[]")
        return cls(name, type_.removeprefix("[]"), array, Versions.parse(versions), nullable, tag, tagged, default)


def has_field(cls: type[Struct], name: str, version: int) -> bool:
    """Whether this version of the struct has the field of this name."""
    return any(field.name == name and version in field.versions for field in map(Field.parse, cls.FIELDS))
