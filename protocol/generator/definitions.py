"""Reads message definitions (`common/message/*.json`) out of jars into a small model."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JAR_NAMES = (
    "kafka-clients",
    "kafka-group-coordinator",
    "kafka-share-coordinator",
    "kafka-transaction-coordinator",
)
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    return _WORD_START.sub("_", name).lower()


@dataclass(frozen=True)
class FieldDef:
    name: str
    type: str
    """Element type if `array`; a struct's name starts with a capital letter."""
    array: bool
    versions: str
    nullable: str
    tag: int | None
    tagged: str
    default: str | None

    @property
    def is_struct(self) -> bool:
        return self.type[0].isupper()


@dataclass
class StructDef:
    name: str
    fields: tuple[FieldDef, ...]


@dataclass
class MessageDef:
    """`structs` are in dependency order, the message itself last."""

    name: str
    kind: str
    api_key: int
    versions: tuple[int, int]
    flexible_since: int | None
    listeners: tuple[str, ...]
    structs: list[StructDef] = field(default_factory=list)


def read_jars(directory: Path) -> Iterator[MessageDef]:
    """Every definition with at least one valid version."""
    for jar_name in JAR_NAMES:
        (jar,) = directory.glob(f"{jar_name}-[0-9]*.jar")
        with zipfile.ZipFile(jar) as archive:
            for entry in sorted(archive.namelist()):
                if entry.startswith("common/message/") and entry.endswith(".json"):
                    raw = json.loads(_COMMENT.sub("", archive.read(entry).decode()))
                    if raw["validVersions"] != "none":
                        yield _message(raw)


def _message(raw: dict[str, Any]) -> MessageDef:
    first, _, last = raw["validVersions"].partition("-")
    flexible = raw["flexibleVersions"]
    message = MessageDef(
        name=raw["name"],
        kind=raw["type"],
        api_key=raw.get("apiKey", -1),
        versions=(int(first), int(last or first)),
        flexible_since=None if flexible == "none" else int(flexible.rstrip("+")),
        listeners=tuple(raw.get("listeners", ())),
    )
    for common in raw.get("commonStructs", ()):
        _add_struct(message, common["name"], common["fields"])
    _add_struct(message, raw["name"], raw["fields"])
    message.structs = _dependency_order(message.structs)
    return message


def _add_struct(message: MessageDef, name: str, raw_fields: list[dict[str, Any]]) -> None:
    fields = []
    for raw in raw_fields:
        type_ = raw["type"].removeprefix("[]")
        if "fields" in raw:
            _add_struct(message, type_, raw["fields"])
        # Jackson turns a JSON null into "no default given"; Kafka writes "null" (a string) for a null default.
        default = raw.get("default")
        if isinstance(default, bool):
            default = str(default).lower()
        fields.append(
            FieldDef(
                name=snake_case(raw["name"]),
                type=type_,
                array=raw["type"].startswith("[]"),
                versions=raw.get("versions") or raw["taggedVersions"],
                nullable=raw.get("nullableVersions", "none"),
                tag=raw.get("tag"),
                tagged=raw.get("taggedVersions", "none"),
                default=None if default is None or default == "" else str(default),
            )
        )
    message.structs.append(StructDef(name, tuple(fields)))


def _dependency_order(structs: list[StructDef]) -> list[StructDef]:
    by_name = {struct.name: struct for struct in structs}
    ordered: dict[str, StructDef] = {}

    def visit(struct: StructDef) -> None:
        for each in struct.fields:
            if each.is_struct:
                visit(by_name[each.type])
        ordered.setdefault(struct.name, struct)

    for struct in structs:
        visit(struct)
    return list(ordered.values())
