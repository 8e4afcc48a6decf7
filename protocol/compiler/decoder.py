"""Decoders: `decode(buffer, position) -> (message, position behind it)`.

Only `DecodeError` comes out, whatever the bytes. A length is checked against what is left of the buffer before anything
is allocated for it, and the elements of all arrays together are bounded, so that neither memory nor time can be had for
a few bytes each. Strings and bytes are copied out; records stay a memoryview of the buffer.

Source: fixed-size fields are collected in `_pending` and read by one `struct` when something of variable size follows.
Generated variables: b buffer, p position, end, q end of a field, left elements allowed; the others are numbered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from protocol.compiler.layout import FIXED_FORMATS, FIXED_SIZES, FieldLayout, StructLayout, message_layout
from protocol.errors import DecodeError
from protocol.types import ZERO_UUID, Message
from protocol.varint import continue_uvarint, read_uvarint

Decoder = Callable[[memoryview, int], tuple[Any, int]]

ELEMENTS_MAX = 1 << 24
"""Default bound of the elements of all arrays of a message."""

_NULL_LENGTHS = {True: 0, False: -1}
"""By flexibility; a compact length is the length + 1."""


def compile_decoder(cls: type[Message], version: int, elements_max: int = ELEMENTS_MAX) -> Decoder:
    source, names = _Source().function(message_layout(cls, version), elements_max)
    exec(compile(source, f"<decoder of {cls.__name__} v{version}>", "exec"), names)
    decoder: Decoder = names["decode"]
    return decoder


class _Source:
    def __init__(self) -> None:
        self._lines: list[str] = []
        self._indent = 2
        self._count = 0
        self._pending: list[tuple[str, str]] = []
        self._names: dict[str, Any] = {
            "DecodeError": DecodeError,
            "ZERO_UUID": ZERO_UUID,
            "continue_uvarint": continue_uvarint,
            "failures": (struct.error, IndexError, UnicodeDecodeError),
            "new": object.__new__,
            "read_uvarint": read_uvarint,
            "unpack_from": struct.unpack_from,
        }

    def function(self, layout: StructLayout, elements_max: int) -> tuple[str, dict[str, Any]]:
        self._struct(layout, "m")
        self._flush()
        name = layout.cls.__name__
        head = ["def decode(b, p):", "    end = len(b)", f"    left = {elements_max}", "    try:"]
        tail = [
            "    except failures as error:",
            f"        raise DecodeError(f'{name}: {{error}}') from None",
            "    return m, p",
        ]
        return "\n".join(head + self._lines + tail), self._names

    # What the generated lines are made of.

    def _emit(self, line: str) -> None:
        self._lines.append("    " * self._indent + line)

    def _variable(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _constant(self, prefix: str, value: object) -> str:
        name = f"{prefix}{value.__name__}" if isinstance(value, type) else self._variable(prefix)
        self._names[name] = value
        return name

    def _fail_if(self, condition: str, what: str) -> None:
        self._emit(f"if {condition}: raise DecodeError({what!r})")

    def _flush(self) -> None:
        if not self._pending:
            return
        if len(self._pending) == 1 and self._pending[0][0] == "B":
            # One byte alone is cheaper by index.
            self._emit(f"{self._pending.pop()[1]} = b[p]")
            self._emit("p += 1")
            return
        formats, targets = zip(*self._pending, strict=True)
        self._pending.clear()
        packed = struct.Struct(">" + "".join(formats))
        trailing_comma = "," if len(targets) == 1 else ""
        self._emit(f"{', '.join(targets)}{trailing_comma} = {self._constant('unpack', packed.unpack_from)}(b, p)")
        self._emit(f"p += {packed.size}")

    # Fields.

    def _struct(self, layout: StructLayout, target: str) -> None:
        """Statements that leave a new object in the local variable `target`; the last fields may still be pending."""
        self._emit(f"{target} = new({self._constant('C_', layout.cls)})")
        for each in layout.absent:
            self._default(each, f"{target}.{each.name}")
        for each in layout.plain:
            self._field(each, f"{target}.{each.name}", layout.flexible)
        if layout.flexible:
            self._tags(layout, target)

    def _default(self, each: FieldLayout, target: str) -> None:
        if each.defaults_to_null:
            value = "None"
        elif each.array:
            value = "[]"
        elif each.struct is not None:
            variable = self._variable("o")
            self._emit(f"{variable} = new({self._constant('C_', each.struct.cls)})")
            for nested in each.struct.plain + each.struct.tagged + each.struct.absent:
                self._default(nested, f"{variable}.{nested.name}")
            value = variable
        elif each.default is not None:
            value = {"true": "True", "false": "False"}.get(each.default, each.default)
        else:
            value = {"string": "''", "bytes": "b''", "uuid": "ZERO_UUID", "bool": "False"}.get(each.type, "0")
        self._emit(f"{target} = {value}")

    def _field(self, each: FieldLayout, target: str, flexible: bool) -> None:
        if each.array:
            self._array(each, target, flexible)
        elif each.struct is not None:
            self._nested(each, each.struct, target)
        elif each.type in FIXED_FORMATS:
            self._pending.append((FIXED_FORMATS[each.type], target))
        else:
            self._sized(each.type, each.name, each.nullable, target, flexible)

    def _length(self, wide: bool, flexible: bool) -> str:
        """Read a length, compact or of 2 or 4 bytes; returns its variable. Nothing is pending afterwards."""
        length = self._variable("n")
        self._pending.append(("B" if flexible else "i" if wide else "h", length))
        self._flush()
        if flexible:
            self._emit(f"if {length} > 127: {length}, p = continue_uvarint(b, p, {length})")
        return length

    def _sized(self, type_: str, name: str, nullable: bool, target: str, flexible: bool) -> None:
        length = self._length(type_ != "string", flexible)
        if nullable:
            self._emit(f"if {length} == {_NULL_LENGTHS[flexible]}: {target} = None")
            self._emit("else:")
            self._indent += 1
        self._emit(f"q = p + {length}{' - 1' if flexible else ''}")
        self._fail_if("not p <= q <= end", f"length of {name} is out of bounds")
        read = {"string": "str(b[p:q], 'utf-8')", "bytes": "bytes(b[p:q])", "records": "b[p:q]"}[type_]
        self._emit(f"{target} = {read}")
        self._emit("p = q")
        if nullable:
            self._indent -= 1

    def _array(self, each: FieldLayout, target: str, flexible: bool) -> None:
        count = self._length(True, flexible)
        if each.nullable:
            self._emit(f"if {count} == {_NULL_LENGTHS[flexible]}: {target} = None")
            self._emit("else:")
            self._indent += 1
        if flexible:
            self._emit(f"{count} -= 1")
        if each.struct is not None:
            element_size = each.struct.size_min
        elif each.type in FIXED_SIZES:
            element_size = FIXED_SIZES[each.type]
        else:
            element_size = 1 if flexible else 2
        self._fail_if(
            f"{count} < 0 or {count} * {max(element_size, 1)} > end - p", f"count of {each.name} is out of bounds"
        )
        self._emit(f"left -= {count}")
        self._fail_if("left < 0", f"{each.name}: too many array elements")
        if each.struct is not None or each.type not in FIXED_FORMATS:
            items = self._variable("a")
            self._emit(f"{target} = {items} = []")
            self._emit(f"for _ in range({count}):")
            self._indent += 1
            item = self._variable("o")
            if each.struct is not None:
                self._struct(each.struct, item)
                self._flush()
            else:
                self._sized(each.type, f"an element of {each.name}", False, item, flexible)
            self._emit(f"{items}.append({item})")
            self._indent -= 1
        else:
            format_ = FIXED_FORMATS[each.type]
            many = f"'>' + '{format_}' * {count}" if each.type == "uuid" else f"f'>{{{count}}}{format_}'"
            self._emit(f"{target} = list(unpack_from({many}, b, p))")
            self._emit(f"p += {count} * {element_size}")
        if each.nullable:
            self._indent -= 1

    def _nested(self, each: FieldLayout, layout: StructLayout, target: str) -> None:
        if each.nullable:
            marker = self._variable("n")
            self._pending.append(("b", marker))
            self._flush()
            # Kafka writes -1 for null among the plain fields, and 0 inside a tagged field.
            self._emit(f"if {marker} {'< 0' if each.tag < 0 else '== 0'}: {target} = None")
            self._emit("else:")
            self._indent += 1
        item = self._variable("o")
        self._struct(layout, item)
        self._emit(f"{target} = {item}")
        if each.nullable:
            self._flush()
            self._indent -= 1

    def _tags(self, layout: StructLayout, target: str) -> None:
        for each in layout.tagged:
            self._default(each, f"{target}.{each.name}")
        count, tag, stop = self._variable("n"), self._variable("t"), self._variable("e")
        self._pending.append(("B", count))
        self._flush()
        # Most often there are none: one comparison.
        self._emit(f"if {count}:")
        self._indent += 1
        self._emit(f"if {count} > 127: {count}, p = continue_uvarint(b, p, {count})")
        self._emit(f"for _ in range({count}):")
        self._indent += 1
        self._emit(f"{tag}, p = read_uvarint(b, p)")
        self._emit(f"{stop}, p = read_uvarint(b, p)")
        self._emit(f"{stop} += p")
        self._fail_if(f"{stop} > end", "size of a tagged field is out of bounds")
        keyword = "if"
        for each in layout.tagged:
            self._emit(f"{keyword} {tag} == {each.tag}:")
            self._indent += 1
            self._field(each, f"{target}.{each.name}", True)
            self._flush()
            self._fail_if(f"p != {stop}", f"size of tagged field {each.name} is wrong")
            self._indent -= 1
            keyword = "elif"
        if layout.tagged:
            self._emit("else:")
            self._emit(f"    p = {stop}")
        else:
            self._emit(f"p = {stop}")
        self._indent -= 2
