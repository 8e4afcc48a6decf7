"""What a cache keeps of a remote store's answer is no more than the answer."""

from __future__ import annotations

from s3stream.objectstore.remote import COPIED_MAX, _owned


def test_a_small_answer_does_not_keep_what_the_connection_read_beside_it() -> None:
    read = bytearray(COPIED_MAX * 2)
    small = _owned(memoryview(read)[10:20])
    assert small == bytes(10)
    assert isinstance(small.obj, bytes)
    assert len(small.obj) == 10
    assert _owned(memoryview(read)).obj is read, "large ones are not copied"
