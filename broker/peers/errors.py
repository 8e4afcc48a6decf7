"""The one error of a call to another broker."""

from __future__ import annotations


class PeerUnavailable(Exception):
    """No answer from that broker. Whether it took the request is unknown; the same may be tried again."""
