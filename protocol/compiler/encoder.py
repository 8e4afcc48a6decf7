"""Encoders: `encode(message) -> pieces`, the concatenation of which is the message's body.

A message without records is one piece. Records buffers become pieces of their own, in place and uncopied; what stands
between two of them is one piece. The first piece is always bytes.

A value that its type cannot hold (an int out of range, None where the version has no null) is a fault of the caller and
surfaces as the `struct.error`, `TypeError` or `AttributeError` it is.

Source: `_fixed` collects fixed-size fields for one `struct`; `_run` collects expressions of bytes that become one
`out += (...)`. Statements that compute them come before it, so only loops and records break a run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, partial
from itertools import chain
from typing import Any

from protocol.compiler.layout import FIXED_FORMATS, FieldLayout, StructLayout, message_layout
from protocol.types import ZERO_UUID, Buffer, KeptList, Message
from protocol.varint import ONE_BYTE, uvarint

Encoder = Callable[[Any], list[Buffer]]


def compile_encoder(cls: type[Message], version: int) -> Encoder:
    return _compile(message_layout(cls, version), version)


def _compile(layout: StructLayout, version: int) -> Encoder:
    source, names = _Source(version).function(layout)
    exec(compile(source, f"<encoder of {layout.cls.__name__} v{version}>", "exec"), names)
    encoder: Encoder = names["encode"]
    return encoder


def _keeper(layout: StructLayout, version: int) -> Callable[[KeptList[Any]], bytes]:
    """What a list is in bytes, without its length; most are never asked for."""
    compiled = cache(partial(_compile, layout, version))

    def keep(structs: KeptList[Any]) -> bytes:
        encoded = structs.encoded.get(version)
        if encoded is None:
            encoded = structs.encoded[version] = b"".join(chain.from_iterable(map(compiled(), structs)))
        return encoded

    return keep


def _tag_section(tagged: list[bytes]) -> bytes:
    """`tagged` holds tag, size and content of each field."""
    return b"".join((uvarint(len(tagged) // 3), *tagged))


class _Source:
    def __init__(self, version: int) -> None:
        self._version = version
        self._lines: list[str] = []
        self._indent = 1
        self._count = 0
        self._fixed: list[tuple[str, str]] = []
        self._run: list[str] = []
        self._out = "out"
        self._spilled = False
        self._names: dict[str, Any] = {
            "KeptList": KeptList,
            "ONE": ONE_BYTE,
            "ZERO_UUID": ZERO_UUID,
            "join": b"".join,
            "pack": struct.pack,
            "tag_section": _tag_section,
            "uvarint": uvarint,
        }

    def function(self, layout: StructLayout) -> tuple[str, dict[str, Any]]:
        has_records = _has_records(layout)
        self._struct(layout, "m")
        if has_records:
            self._flush()
            head = ["pieces = []", "out = []"]
            tail = ["if out: pieces.append(join(out))", "return pieces"]
        elif self._spilled:
            self._flush()
            head, tail = ["out = []"], ["return [join(out)]"]
        else:
            self._flush_fixed()
            head, tail = [], [f"return [join(({', '.join(self._run)},))]" if self._run else "return [b'']"]
        body = [f"    {line}" for line in head] + self._lines + [f"    {line}" for line in tail]
        return "\n".join(["def encode(m):", *body]), self._names

    # What the generated lines are made of.

    def _emit(self, line: str) -> None:
        self._lines.append("    " * self._indent + line)

    def _variable(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _flush_fixed(self) -> None:
        if not self._fixed:
            return
        packed = struct.Struct(">" + "".join(format_ for format_, _ in self._fixed))
        values = [value for format_, value in self._fixed if format_ != "x"]
        self._fixed.clear()
        name = self._variable("pack" if values else "zeros")
        self._names[name] = packed.pack if values else bytes(packed.size)
        self._run.append(f"{name}({', '.join(values)})" if values else name)

    def _flush(self) -> None:
        self._flush_fixed()
        self._spilled = self._spilled or self._out == "out"
        if len(self._run) == 1:
            self._emit(f"{self._out}.append({self._run[0]})")
        elif self._run:
            self._emit(f"{self._out} += ({', '.join(self._run)})")
        self._run.clear()

    def _bytes(self, expression: str) -> None:
        self._flush_fixed()
        self._run.append(expression)

    def _compact_length(self, length: str) -> None:
        """`length` already counts from 1."""
        self._bytes(f"ONE[{length}] if {length} < 128 else uvarint({length})")

    # Fields.

    def _struct(self, layout: StructLayout, source: str) -> None:
        for each in layout.plain:
            self._field(each, f"{source}.{each.name}", layout.flexible)
        if layout.tagged:
            self._tags(layout, source)
        elif layout.flexible:
            self._fixed.append(("x", ""))

    def _field(self, each: FieldLayout, source: str, flexible: bool) -> None:
        if each.array:
            self._array(each, source, flexible)
        elif each.struct is not None:
            self._nested(each, each.struct, source)
        elif each.type in FIXED_FORMATS:
            self._fixed.append((FIXED_FORMATS[each.type], source))
        elif each.type == "records":
            self._records(source, flexible)
        else:
            self._sized(each.type, each.nullable, source, flexible)

    def _sized(self, type_: str, nullable: bool, source: str, flexible: bool) -> None:
        value, length = self._variable("v"), self._variable("n")
        content = f"{value}.encode()" if type_ == "string" else value
        plus = " + 1" if flexible else ""
        self._emit(f"{value} = {source}")
        if nullable:
            self._emit(f"if {value} is None: {value} = b''; {length} = {0 if flexible else -1}")
            self._emit(f"else: {value} = {content}; {length} = len({value}){plus}")
        elif type_ == "string":
            self._emit(f"{value} = {content}; {length} = len({value}){plus}")
        else:
            self._emit(f"{length} = len({value}){plus}")
        if flexible:
            self._compact_length(length)
        else:
            self._fixed.append(("h" if type_ == "string" else "i", length))
        self._bytes(value)

    def _records(self, source: str, flexible: bool) -> None:
        value, length = self._variable("v"), self._variable("n")
        plus = " + 1" if flexible else ""
        self._emit(f"{value} = {source}")
        self._emit(f"if {value} is None: {length} = {0 if flexible else -1}")
        self._emit(f"elif {value}.__class__ is list: {length} = sum(map(len, {value})){plus}")
        self._emit(f"else: {length} = len({value}){plus}")
        if flexible:
            self._compact_length(length)
        else:
            self._fixed.append(("i", length))
        self._flush()
        self._emit(f"if {length} > {1 if flexible else 0}:")
        self._emit("    pieces.append(join(out)); out = []")
        self._emit(f"    if {value}.__class__ is list: pieces += {value}")
        self._emit(f"    else: pieces.append({value})")

    def _array(self, each: FieldLayout, source: str, flexible: bool) -> None:
        items, count = self._variable("a"), self._variable("n")
        plus = " + 1" if flexible else ""
        self._emit(f"{items} = {source}")
        if each.nullable:
            self._emit(f"if {items} is None: {items} = (); {count} = {0 if flexible else -1}")
            self._emit(f"else: {count} = len({items}){plus}")
        else:
            self._emit(f"{count} = len({items}){plus}")
        if flexible:
            self._compact_length(count)
        else:
            self._fixed.append(("i", count))
        if each.type == "uuid":
            self._bytes(f"join({items})")
        elif each.type in FIXED_FORMATS:
            self._bytes(f"pack(f'>{{len({items})}}{FIXED_FORMATS[each.type]}', *{items})")
        else:
            self._flush()
            if each.struct is None or _has_records(each.struct):
                self._items(each, items, flexible)
            else:
                keep = self._variable("keep")
                self._names[keep] = _keeper(each.struct, self._version)
                self._emit(f"if {items}.__class__ is KeptList: {self._out}.append({keep}({items}))")
                self._emit("else:")
                self._indent += 1
                self._items(each, items, flexible)
                self._indent -= 1

    def _items(self, each: FieldLayout, items: str, flexible: bool) -> None:
        item = self._variable("o")
        self._emit(f"for {item} in {items}:")
        self._indent += 1
        if each.struct is not None:
            self._struct(each.struct, item)
        else:
            self._sized(each.type, False, item, flexible)
        self._flush()
        self._indent -= 1

    def _nested(self, each: FieldLayout, layout: StructLayout, source: str) -> None:
        item = self._variable("o")
        if not each.nullable:
            self._emit(f"{item} = {source}")
            self._struct(layout, item)
            return
        # Kafka writes -1 for null among the plain fields, and 0 inside a tagged field.
        null = "\\xff" if each.tag < 0 else "\\0"
        self._emit(f"{item} = {source}")
        self._flush()
        self._emit(f"if {item} is None: {self._out}.append(b'{null}')")
        self._emit("else:")
        self._indent += 1
        self._bytes("b'\\1'")
        self._struct(layout, item)
        self._flush()
        self._indent -= 1

    def _tags(self, layout: StructLayout, source: str) -> None:
        """All at their defaults, the common case, costs the comparisons and one byte."""
        section = self._variable("t")
        differs = {each.name: _differs_from_default(each, f"{source}.{each.name}") for each in layout.tagged}
        # The run so far must not be flushed inside the branch: its expressions are kept until after it.
        fixed, run, out = self._fixed, self._run, self._out
        self._fixed, self._run, self._out = [], [], self._variable("w")
        self._emit(f"{section} = b'\\0'")
        self._emit(f"if {' or '.join(differs.values())}:")
        self._indent += 1
        fields = self._variable("f")
        self._emit(f"{fields} = []")
        for each in layout.tagged:
            self._emit(f"if {differs[each.name]}:")
            self._indent += 1
            self._emit(f"{self._out} = []")
            self._field(each, f"{source}.{each.name}", True)
            self._flush()
            content = self._variable("v")
            self._emit(f"{content} = join({self._out})")
            self._emit(f"{fields} += (uvarint({each.tag}), uvarint(len({content})), {content})")
            self._indent -= 1
        self._emit(f"{section} = tag_section({fields})")
        self._indent -= 1
        self._fixed, self._run, self._out = fixed, run, out
        self._bytes(section)


def _has_records(layout: StructLayout) -> bool:
    return any(
        each.type == "records" or (each.struct is not None and _has_records(each.struct)) for each in layout.plain
    )


def _differs_from_default(each: FieldLayout, source: str) -> str:
    """A condition over the field of an object; Kafka writes a tagged field only if it holds."""
    if each.defaults_to_null:
        return f"{source} is not None"
    null = f"{source} is None or " if each.nullable else ""
    if each.array:
        return f"{null}{source}"
    if each.struct is not None:
        nested = each.struct.plain + each.struct.tagged
        return null + " or ".join(_differs_from_default(inner, f"{source}.{inner.name}") for inner in nested)
    if each.type == "bool":
        return f"not {source}" if each.default == "true" else source
    if each.type == "uuid":
        return f"{source} != ZERO_UUID"
    if each.type in ("string", "bytes"):
        return f"{null}{source}"
    return f"{source} != {each.default or 0}"
