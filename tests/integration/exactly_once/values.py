"""What stands in the records of a drill: every byte follows from ids, so a reader proves bytes and not only presence.

An input's value is its id and some filler; a copy's value is the copy's id before the value of its input. In histories
a copy goes by its own id and that of its input, so a copy of the wrong input is one that nobody sent.
"""

from __future__ import annotations

import zlib


def input_value(record_id: str) -> str:
    checksum = zlib.crc32(record_id.encode())
    return f"{record_id}|" + f"{checksum:08x}" * (checksum % 12)


def input_id(value: str) -> str:
    """The id of an input, or what nobody sent if its bytes are not right."""
    record_id = value.partition("|")[0]
    return record_id if value == input_value(record_id) else f"damaged record {value!r}"


def copy_id(value: str) -> str:
    own, _, copied = value.partition("|")
    return id_of_copy(own, input_id(copied))


def id_of_copy(own: str, source: str) -> str:
    return f"{own} of {source}"
