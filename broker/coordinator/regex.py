"""Regular expressions over names of topics and transactional ids, with the syntax and semantics of RE2, which is what
KIP-848 and KIP-1152 promise to clients.

RE2 takes time linear in its input, whatever expression a client sends; its memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

_MEMORY_MAX = 1 << 20
"""Bytes that one compiled expression may take."""

_MESSAGES = {
    "missing )": "missing closing )",
    "unexpected )": "unexpected )",
    "missing ]": "missing closing ]",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "bad repetition operator",
    "invalid named capture group": "invalid named capture",
    "trailing \\": "trailing backslash at end of expression",
}
"""What RE2 in C++ says, and what Kafka's RE2 in Java says of the same."""


class InvalidRegex(Exception):
    """The message says what is wrong with it, in the words of Kafka."""


def check(expression: str) -> None:
    """Raises InvalidRegex."""
    _compile(expression)


def full_match(expression: str) -> Callable[[str], bool]:
    """Whether a name matches as a whole. Raises InvalidRegex."""
    fullmatch = _compile(expression).fullmatch
    return lambda name: fullmatch(name) is not None


def matching(expression: str, names: Iterable[str]) -> frozenset[str]:
    """The names that match as a whole; none of them if the expression is not valid."""
    try:
        matches = full_match(expression)
    except InvalidRegex:
        return frozenset()
    return frozenset(name for name in names if matches(name))


@lru_cache(maxsize=1024)
def _compile(expression: str) -> Any:
    import re2  # not before somebody gives an expression

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_MAX
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        kind = text.partition(":")[0]
        raise InvalidRegex(_MESSAGES.get(kind, kind)) from None
