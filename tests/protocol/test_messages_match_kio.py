"""Every message and version: what we encode, kio decodes to the same values, and encodes to the same bytes again."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from protocol.compiler import compile_decoder, compile_encoder
from protocol.compiler.layout import StructLayout, message_layout
from protocol.types import Message, Struct
from tests.protocol.strategies import BOUNDED, all_requests, all_responses, messages


def _by_api(pairs: list[tuple[type[Message], int]]) -> list[Any]:
    versions: dict[type[Message], list[int]] = {}
    for cls, version in pairs:
        versions.setdefault(cls, []).append(version)
    return [pytest.param(cls, each, id=cls.__name__) for cls, each in versions.items()]


@pytest.mark.parametrize(("cls", "versions"), _by_api(all_requests()))
def test_requests(cls: type[Message], versions: list[int]) -> None:
    for version in versions:
        check_against(load_request_schema(cls.API_KEY, version), cls, version)


@pytest.mark.parametrize(("cls", "versions"), _by_api(all_responses()))
def test_responses(cls: type[Message], versions: list[int]) -> None:
    for version in versions:
        check_against(load_response_schema(cls.API_KEY, version), cls, version)


class _Sink(bytearray):
    write = bytearray.extend


def check_against(entity: type[Any], cls: type[Message], version: int) -> None:
    encode, decode = compile_encoder(cls, version), compile_decoder(cls, version)
    read, write = entity_reader(entity), entity_writer(entity)
    layout = message_layout(cls, version)

    @BOUNDED
    @given(messages(cls, version))
    def check(message: Message) -> None:
        ours = b"".join(encode(message))
        decoded, size = decode(memoryview(ours), 0)
        assert size == len(ours)
        assert decoded == message

        theirs, size = read(ours, 0)
        assert size == len(ours)
        assert flat_entity(theirs, layout) == flat_struct(message, layout)

        rewritten = _Sink()
        write(rewritten, theirs)
        assert bytes(rewritten) == ours

    check()


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
