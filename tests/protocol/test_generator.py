"""A definition in a jar becomes a module with classes, defaults and tables that codecs are compiled from."""

from __future__ import annotations

import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from protocol.compiler import compile_decoder, compile_encoder
from protocol.generator.definitions import JAR_NAMES, read_jars, snake_case
from protocol.generator.emit import module_source

REQUEST = """
  // A licence, which is not carried over.
{
  "apiKey": 7, "type": "request", "listeners": ["broker"], "name": "ThingRequest",
  // Version 1 adds Extra.
  "validVersions": "0-2", "flexibleVersions": "2+",
  "fields": [
    { "name": "GroupId", "type": "string", "versions": "0+", "about": "Prose." },
    { "name": "ExtraMs", "type": "int64", "versions": "1+", "default": "0x10" },
    { "name": "Enabled", "type": "bool", "versions": "0+", "default": "true" },
    { "name": "Topics", "type": "[]Topic", "versions": "0+", "nullableVersions": "1+", "fields": [
      { "name": "Owner", "type": "Owner", "versions": "0+" },
      { "name": "Partitions", "type": "[]int32", "versions": "0+" }
    ]},
    { "name": "Rack", "type": "string", "nullableVersions": "2+", "default": null, "taggedVersions": "2+", "tag": 0 },
    { "name": "Cursor", "type": "Cursor", "versions": "2+", "nullableVersions": "2+", "default": "null", "fields": [
      { "name": "At", "type": "int8", "versions": "2+" }
    ]}
  ],
  "commonStructs": [
    { "name": "Owner", "versions": "0+", "fields": [{ "name": "Name", "type": "string", "versions": "0+" }] }
  ]
}
"""
RESPONSE = {
    "apiKey": 7,
    "type": "response",
    "name": "ThingResponse",
    "validVersions": "0-2",
    "flexibleVersions": "none",
    "fields": [
        {
            "name": "Topics",
            "type": "[]Topic",
            "versions": "0+",
            "fields": [{"name": "Data", "type": "records", "versions": "0+", "nullableVersions": "0+"}],
        },
        {
            "name": "Owner",
            "type": "Owner",
            "versions": "0+",
            "fields": [{"name": "Name", "type": "string", "versions": "0+"}],
        },
    ],
}


@pytest.fixture
def thing(tmp_path: Path) -> Any:
    removed = {"apiKey": 8, "type": "request", "name": "GoneRequest", "validVersions": "none"}
    for name in JAR_NAMES:
        with zipfile.ZipFile(tmp_path / f"{name}-9.9.9.jar", "w") as jar:
            if name == "kafka-clients":
                jar.writestr("common/message/ThingRequest.json", REQUEST)
                jar.writestr("common/message/ThingResponse.json", json.dumps(RESPONSE))
                jar.writestr("common/message/GoneRequest.json", json.dumps(removed))
                jar.writestr("other/Thing.json", "not read")
    source = module_source("Thing", list(read_jars(tmp_path)))
    assert "Prose" not in source
    assert "licence" not in source
    module = types.ModuleType("generated_thing")
    sys.modules[module.__name__] = module
    exec(compile(source, "generated_thing", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_classes_have_the_definitions_defaults(thing: Any) -> None:
    request = thing.ThingRequest()
    assert (request.group_id, request.extra_ms, request.enabled, request.topics) == ("", 16, True, [])
    assert request.rack == ""
    assert request.cursor is None
    assert thing.Topic().owner == thing.Owner()
    assert (thing.ThingRequest.API_KEY, thing.ThingRequest.VERSIONS, thing.ThingRequest.FLEXIBLE_SINCE) == (
        7,
        (0, 2),
        2,
    )


def test_structs_of_one_name_are_shared_if_equal_and_renamed_if_not(thing: Any) -> None:
    assert thing.TopicResponse.__slots__ == ("data",)
    assert "`Topic` is `TopicResponse`" in thing.__doc__
    assert not hasattr(thing, "OwnerResponse")


def test_codecs_follow_the_table(thing: Any) -> None:
    request = thing.ThingRequest(
        group_id="g", extra_ms=1, enabled=False, topics=[thing.Topic(owner=thing.Owner(name="o"), partitions=[1, 2])]
    )
    expected = {
        0: "000167 00 00000001 00016f 00000002 00000001 00000002",
        1: "000167 0000000000000001 00 00000001 00016f 00000002 00000001 00000002",
        2: "0267 0000000000000001 00 02 026f 00 03 00000001 00000002 00 ff 00",
    }
    for version, golden in expected.items():
        encoded = b"".join(compile_encoder(thing.ThingRequest, version)(request))
        assert encoded == bytes.fromhex(golden)
        decoded, _ = compile_decoder(thing.ThingRequest, version)(memoryview(encoded), 0)
        assert decoded.topics == request.topics
        assert decoded.extra_ms == (1 if version else 16)


def test_names_become_snake_case() -> None:
    names = {
        "ThrottleTimeMs": "throttle_time_ms",
        "ISRNodes": "isr_nodes",
        "group": "group",
        "V3AndBelow": "v3_and_below",
    }
    assert {name: snake_case(name) for name in names} == names
