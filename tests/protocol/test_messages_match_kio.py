"""Every message and version: what we encode, kio decodes to the same values, and encodes to the same bytes again."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from protocol.compiler import compile_decoder, compile_encoder
from protocol.compiler.layout import StructLayout, message_layout
from protocol.types import Message, Struct
from tests.protocol.strategies import BOUNDED, all_requests, all_responses, messages

VERSIONS_AT_ONCE = 4
"""So many are drawn together: setting up a property costs more than checking a message."""


def _by_api(pairs: list[tuple[type[Message], int]]) -> list[Any]:
    versions: dict[type[Message], list[int]] = {}
    for cls, version in pairs:
        versions.setdefault(cls, []).append(version)
    return [
        pytest.param(cls, some, id=f"{cls.__name__}-{some[0]}-{some[-1]}")
        for cls, each in versions.items()
        for some in (each[at : at + VERSIONS_AT_ONCE] for at in range(0, len(each), VERSIONS_AT_ONCE))
    ]


@pytest.mark.parametrize(("cls", "versions"), _by_api(all_requests()))
def test_requests(cls: type[Message], versions: list[int]) -> None:
    check_against([Oracle(load_request_schema(cls.API_KEY, version), cls, version) for version in versions])


@pytest.mark.parametrize(("cls", "versions"), _by_api(all_responses()))
def test_responses(cls: type[Message], versions: list[int]) -> None:
    check_against([Oracle(load_response_schema(cls.API_KEY, version), cls, version) for version in versions])


def check_against(oracles: list[Oracle]) -> None:
    @BOUNDED
    @given(st.tuples(*(messages(oracle.cls, oracle.version) for oracle in oracles)))
    def check(drawn: tuple[Message, ...]) -> None:
        for oracle, message in zip(oracles, drawn, strict=True):
            oracle.check(message)

    check()


class _Sink(bytearray):
    write = bytearray.extend


class Oracle:
    """kio's codec of one message and version beside ours."""

    def __init__(self, entity: type[Any], cls: type[Message], version: int) -> None:
        self.cls, self.version = cls, version
        self._encode, self._decode = compile_encoder(cls, version), compile_decoder(cls, version)
        self._read, self._write = entity_reader(entity), entity_writer(entity)
        self._layout = message_layout(cls, version)

    def check(self, message: Message) -> None:
        ours = b"".join(self._encode(message))
        decoded, size = self._decode(memoryview(ours), 0)
        assert size == len(ours)
        assert decoded == message

        theirs, size = self._read(ours, 0)
        assert size == len(ours)
        assert flat_entity(theirs, self._layout) == flat_struct(message, self._layout)

        rewritten = _Sink()
        self._write(rewritten, theirs)
        assert bytes(rewritten) == ours


def flat_struct(struct: Struct, layout: StructLayout) -> list[Any]:
    """Values in the order of the definition, of the fields that the version has."""
    present = {each.name: each for each in layout.plain + layout.tagged}
    values = []
    for line in type(struct).FIELDS:
        each = present.get(line.partition(" ")[0])
        if each is None:
            continue
        value = getattr(struct, each.name)
        if each.struct is not None and value is not None:
            nested = each.struct
            value = [flat_struct(v, nested) for v in value] if each.array else flat_struct(value, nested)
        values.append(value)
    return values


def flat_entity(entity: Any, layout: StructLayout) -> list[Any]:
    present = {each.name: each for each in layout.plain + layout.tagged}
    order = [present[name] for name in (line.partition(" ")[0] for line in layout.cls.FIELDS) if name in present]
    fields = dataclasses.fields(entity)
    assert len(fields) == len(order)
    values = []
    for field, each in zip(fields, order, strict=True):
        value = getattr(entity, field.name)
        if each.array and value is not None:
            value = [flat_entity(v, each.struct) if each.struct else plain(v, each.type) for v in value]
        elif each.struct is not None and value is not None:
            value = flat_entity(value, each.struct)
        else:
            value = plain(value, each.type, each.nullable)
        values.append(value)
    return values


def plain(value: Any, type_: str, nullable: bool = False) -> Any:
    """kio's richer types as the numbers and bytes that are on the wire."""
    if isinstance(value, Enum):
        return int(value.value)
    if isinstance(value, datetime.timedelta):
        return value // datetime.timedelta(milliseconds=1)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, uuid.UUID):
        return value.bytes
    if value is None and type_ == "uuid":
        return bytes(16)
    if value is None and type_ == "int64" and not nullable:
        return -1
    return value
